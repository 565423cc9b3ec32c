"""MLflow: the search as a run, every evaluation that has ended as a run nested in it.

Where it writes is MLflow's own matter: `MLFLOW_TRACKING_URI`, a server, a database or a folder.
Runs are found again by the path of the run folder, so a search that goes on lacks nothing and has
nothing twice.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raynas.record.events import Complete, Event, Finished, Retraining, Session
from raynas.record.history import Evaluation
from raynas.trackers.tracker import TrackedRun, Tracker, delivered, missing, outcome, outline

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_FOLDER, _EVALUATION, _PARENT = "raynas.folder", "raynas.evaluation", "mlflow.parentRunId"
_LONGEST = 500  # characters of a parameter in the oldest servers
_PAGE = 1000  # runs that one request returns


@dataclass
class MLflow(Tracker):
    """Shows a run in MLflow.

    Args:
        experiment: under which its runs stand; made if missing.
    """

    experiment: str = "raynas"
    _run: str = field(default="", init=False, compare=False)
    #: {evaluation: its run}
    _known: dict[int, str] = field(default_factory=dict, init=False, compare=False)

    def check(self) -> None:
        """Refuse where the package is missing."""
        try:
            import mlflow  # noqa: F401
        except ImportError as error:
            raise missing("mlflow", error) from error

    def track(self, event: Event, run: TrackedRun) -> None:
        """Show what an event adds."""
        match event:
            case Session():
                self._begin(event, run)
            case Finished():
                self._evaluation(run.history.evaluations[event.evaluation], event.time)
                self._progress(run, event.time)
            case Retraining():
                metrics = {f"retrain/{key}": value for key, value in event.metrics.items()}
                self._log(self._run, _measured([metrics], event.time, event.epoch))
            case Complete():
                with delivered(run.folder) as paths:
                    for path in paths:
                        self._client.log_artifact(self._run, str(path))
                self._client.set_terminated(self._run, "FINISHED", _milliseconds(event.time))

    @property
    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient()

    def _begin(self, event: Session, run: TrackedRun) -> None:
        """Make the search's run, or find it and what it has of the evaluations."""
        found = self._client.get_experiment_by_name(self.experiment)
        identity = found.experiment_id if found else self._client.create_experiment(self.experiment)
        self._experiment = identity
        folder = str(run.folder.path)
        earlier = next(iter(self._search({_FOLDER: folder})), None)
        if earlier is None:
            self._run = self._create(run.name, {_FOLDER: folder}, outline(run), event.time)
        else:
            self._run = earlier.info.run_id
            self._client.update_run(self._run, status="RUNNING")
        self._known = {}
        for nested in self._search({_PARENT: self._run}):
            if nested.info.status in ("FINISHED", "FAILED"):
                self._known[int(nested.data.tags[_EVALUATION])] = nested.info.run_id
            else:  # its writing was interrupted
                self._client.delete_run(nested.info.run_id)
        for evaluation in run.history.finished.values():
            if evaluation.index not in self._known:
                self._evaluation(evaluation, event.time)

    def _evaluation(self, evaluation: Evaluation, time: float) -> None:
        """Make the run of an evaluation that has ended, anew where it had ended before."""
        if evaluation.index in self._known:
            self._client.delete_run(self._known.pop(evaluation.index))
        tags = {_PARENT: self._run, _EVALUATION: str(evaluation.index)}
        run = self._create(f"{evaluation.index:05d}", tags, outcome(evaluation), time)
        self._log(run, _measured(evaluation.history, time))
        failed = not math.isfinite(evaluation.value)
        self._client.set_terminated(run, "FAILED" if failed else "FINISHED", _milliseconds(time))
        self._known[evaluation.index] = run

    def _progress(self, run: TrackedRun, time: float) -> None:
        best, ended = run.history.best, len(run.history.finished)
        if best is not None:
            metrics = {f"search/best_{run.history.metric}": best.value}
            self._log(self._run, _measured([metrics], time, ended))

    def _create(
        self, name: str, tags: Mapping[str, str], parameters: Mapping[str, str], time: float
    ) -> str:
        from mlflow.entities import Param

        run = self._client.create_run(
            self._experiment, _milliseconds(time), {"mlflow.runName": name, **tags}
        )
        identity: str = run.info.run_id
        values = [Param(key, value[:_LONGEST]) for key, value in parameters.items()]
        self._client.log_batch(identity, params=values)
        return identity

    def _log(self, run: str, metrics: "Sequence[Metric]") -> None:
        for start in range(0, len(metrics), _PAGE):
            self._client.log_batch(run, metrics=metrics[start : start + _PAGE])

    def _search(self, tags: Mapping[str, str]) -> "list[Run]":
        """Return all runs of the experiment that have these tags."""
        wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found: list[Any] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([self._experiment], wanted, max_results=_PAGE,
                                            page_token=token)  # fmt: skip
            found += page
            token = page.token
            if not token:
                return found


def _measured(
    history: Iterable[Mapping[str, float]], time: float, first: int = 1
) -> "list[Metric]":
    """Return metrics as MLflow has them, one step an epoch; it knows no infinite ones."""
    from mlflow.entities import Metric

    return [
        Metric(key, float(value), _milliseconds(time), step)
        for step, metrics in enumerate(history, first)
        for key, value in metrics.items()
        if math.isfinite(value)
    ]


def _milliseconds(time: float) -> int:
    return int(time * 1000)
