"""The stage that prunes the trained architectures to an ensemble.

`ensemble/` in the run folder: `model.pt2` (one `torch.export` program), `members.parquet`,
`curves.parquet` (what every rule's ensembles of every size are worth), `diversity.parquet`, both as
figures, and, written last, `ensemble.json`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

from raynas.drivers.session import Session
from raynas.ensemble.candidates import Candidates
from raynas.ensemble.combination import Combination
from raynas.ensemble.members import collect, latency_ms, load_network, read_state
from raynas.ensemble.saep import SAEP
from raynas.errors import InvalidArgument
from raynas.record import models
from raynas.record.events import METRIC, EnsembleMade, Status
from raynas.record.folder import read_json, write, write_json
from raynas.record.history import Evaluation
from raynas.record.table import read_parquet
from raynas.reports.ensemble import recorded, warning
from raynas.reports.figures import curves_figure, diversity_figure
from raynas.reports.rendering import png
from raynas.stages.stage import Stage
from trials.deployed import Committee
from trials.places import make_folder


@dataclass(frozen=True)
class Request:
    """The ensemble that is asked for.

    Attributes:
        saep: how it is pruned.
        prune: whether at all; otherwise all candidates are its members.
        evaluations: the candidates.
        penalties: {evaluation: of its weight in a mixture}, where it is not 0.
        text: what the run's arguments say.
    """

    saep: SAEP
    prune: bool
    evaluations: Sequence[Evaluation]
    penalties: Mapping[int, float]
    text: str

    @property
    def indices(self) -> list[int]:
        """Return the numbers of the candidates."""
        return [evaluation.index for evaluation in self.evaluations]


class EnsembleStage(Stage):
    """Makes the ensemble that is asked for, or that the searcher has grown.

    One that cannot be made costs the run nothing: `run.yaml` names the one again that there is,
    if any, and the run goes on; the reason is raised at its end.
    """

    name: ClassVar[str] = "ensemble"

    def done(self, session: Session) -> bool:
        """See `Stage`."""
        request, last = _request(session), session.history.ensemble
        if request is None:
            return True
        recorded_so = last and (last.asked, list(last.evaluations)) == (
            request.text, request.indices,
        )  # fmt: skip
        return bool(recorded_so) and _is_there(session, request)

    def run(self, session: Session) -> None:
        """Prune, measure, export, and record it."""
        request = _request(session)
        assert request is not None
        try:
            if not _is_there(session, request):  # else only the record of it is missing
                how = session.plan.config.ensemble or "all of them"
                session.say(f"Ensemble of {len(request.evaluations)} candidates: {how}")
                make_ensemble(session, request)
        except InvalidArgument as error:
            _give_up(session, request, error)
            return
        folder = session.folder.ensemble
        ensemble = read_json(folder / "ensemble.json")
        if ensemble.get("warning"):
            session.say(ensemble["warning"])
        curves = read_parquet(folder / "curves.parquet").to_dict("records")
        session.record(
            EnsembleMade(
                request.text, ensemble["evaluations"], ensemble["metrics"],
                cast(list[dict[str, Any]], curves),
            )
        )  # fmt: skip


def _request(session: Session) -> Request | None:
    """Return what is asked for; None: no ensemble."""
    plan, search = session.plan, session.search
    saep, text = plan.ensemble or SAEP(), str(plan.config.ensemble)
    grown = list(search.searcher.ensemble)
    if search.searcher.needs_predictions:  # it grows an ensemble
        if plan.ensemble is None and len(grown) < 2:
            return None
        saep = replace(saep, combine=saep.combine or search.searcher.combine)
        penalties = dict(zip(grown, search.searcher.penalties(grown), strict=True))
        members = [search.evaluations[i] for i in grown]
        return Request(saep, plan.ensemble is not None, members, penalties, text)
    if plan.ensemble is None:
        return None
    trained = [Status.COMPLETED, Status.STOPPED] if saep.stopped else [Status.COMPLETED]
    gone = session.history.discarded
    members = [e for e in search.evaluations if e.status in trained and e.index not in gone]
    return Request(saep, True, members, {}, text)


def _is_there(session: Session, request: Request) -> bool:
    """Return whether the run folder holds this ensemble, whole."""
    ensemble = recorded(session.folder.ensemble)
    if ensemble is None or (ensemble["asked"], ensemble["evaluations"]) != (
        request.text, request.indices,
    ):  # fmt: skip
        return False
    compared, winner = ensemble.get("delivered"), session.search.winner  # older ones have none
    return compared is None or winner is None or compared["evaluation"] == winner.index


def _delivered(session: Session) -> dict[str, Any]:
    """Return what the delivered winner is worth, as far as that is known.

    On the validation part that is what the last decision or the search measured: the retraining
    has learned from it.
    """
    history, winner = session.history, session.search.winner
    assert winner is not None  # the retraining comes before
    curve = history.selecting.get(winner.index)
    retrained = history.retrained[winner.index]
    known = ("test_accuracy", "test_loss", "params", "macs")
    return {
        "evaluation": winner.index,
        "members": 1,
        "val_accuracy": curve[-1][METRIC] if curve else winner.value,
        **{key: retrained[key] for key in known if key in retrained},
    }


def _give_up(session: Session, request: Request, error: InvalidArgument) -> None:
    """Leave the ensemble that there was, and have the reason raised at the end of the run."""
    evaluations = session.search.evaluations
    stopped = sum(e.status is Status.STOPPED and e.epochs > 0 for e in evaluations)
    if stopped and not request.saep.stopped:
        error = InvalidArgument(
            f"{error} {stopped} evaluations that were stopped early are members only with"
            " SAEP(stopped=True), on the command line --stopped."
        )
    session.problems.append(error)
    last = session.history.ensemble
    former = None if last is None or last.asked == "None" else last.asked
    config = session.plan.config.model_copy(update={"ensemble": former})
    plan = replace(session.plan, config=config)
    plan.write(session.recorded, len(session.history.evaluations))


def make_ensemble(session: Session, request: Request) -> None:
    """Prune trained architectures to an ensemble, measure it, export it.

    Raises:
        InvalidArgument: when fewer than two can be members; the message says why.
    """
    saep, data = request.saep, session.plan.data
    members, excluded = collect(
        session.folder, session.plan.space, session.data, request.evaluations, session.resources
    )
    if len(members) < 2:
        reasons = "; ".join(f"#{index} {reason}" for index, reason in excluded.items())
        raise InvalidArgument(
            f"ensemble: {len(members)} of {len(request.evaluations)} trained architectures can be"
            " members, and an ensemble needs two."
            f" {reasons or 'More must be trained: more samples, or searches'}."
        )
    penalties = [request.penalties.get(member.evaluation, 0.0) for member in members]
    candidates = Candidates(members, data, penalties, saep, session.plan.config.seed)
    chosen = candidates.pruned if request.prune else list(range(len(members)))
    together = candidates.fitted(chosen)
    folder = session.folder.ensemble
    make_folder(folder)
    (folder / "ensemble.json").unlink(missing_ok=True)  # its presence says that the folder is whole
    latency = _export(session, candidates, chosen, together)
    metrics = candidates.measured(chosen, together) | {"latency_ms": latency}
    delivered = _delivered(session)
    ensemble = {
        "asked": request.text,
        "evaluations": request.indices,
        "rule": saep.rule if request.prune else None,
        "combination": together.kind,
        "temperature": together.temperature,
        "metrics": metrics,
        "unpruned": candidates.worth(list(range(len(members)))),
        "alone": candidates.worth(candidates.orders["greedy"][-1:]),
        "delivered": delivered,
        "warning": warning(metrics, delivered),
        "excluded": {str(index): reason for index, reason in excluded.items()},
        "images": models.description(data),
    }
    _write(session, candidates, chosen, together, ensemble)


def _write(
    session: Session, candidates: Candidates, chosen: Sequence[int], together: Combination,
    ensemble: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the tables and figures, then `ensemble.json`."""
    folder = session.folder.ensemble
    table, curves, diversity = (
        candidates.table(chosen, together), candidates.curves(), candidates.diversity(),
    )  # fmt: skip
    write(folder / "members.parquet", table.to_parquet)
    write(folder / "curves.parquet", curves.to_parquet)
    write(folder / "diversity.parquet", diversity.to_parquet)
    (folder / "curves.png").write_bytes(png(curves_figure(curves, ensemble)))
    (folder / "diversity.png").write_bytes(png(diversity_figure(diversity, table["evaluation"])))
    write_json(folder / "ensemble.json", ensemble)


def _export(
    session: Session, candidates: Candidates, chosen: Sequence[int], together: Combination
) -> float:
    """Write the chosen members as one program; return its latency on the CPU in ms."""
    plan, search = session.plan, session.search
    networks = []
    for i in chosen:
        index = candidates.members[i].evaluation
        state = read_state(session.folder.checkpoint(index), plan.data)
        networks.append(load_network(plan.space, search.architectures[index], plan.data, state))
    committee = Committee(networks, together.kind, together.weights, together.temperature)
    content = models.description(plan.data)
    model = models.classifier(committee, content)
    models.export(model, content, session.folder.ensemble, ["torch"])
    return latency_ms(model, plan.data.input_shape, session.resources.threads)
