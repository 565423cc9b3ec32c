"""TensorBoard files: a view of the journal, written anew whenever a run is continued.

`tensorboard/search` has the progress of the search, and when there is a winner its drawing and
figures of the report, `tensorboard/searches/<number>` the epochs of
a differentiable search and, at its end, its mixtures as a figure and what looks wrong as a text,
`tensorboard/trials/<evaluation>` the curves of each trial and its row in the HParams table,
`tensorboard/supernet/<group>` the training of the shared weights,
`tensorboard/selecting/<evaluation>` the full training of a candidate of the last decision,
`tensorboard/retraining` that of the best, `tensorboard/ensemble/<rule>` what the ensembles that a
rule leaves are worth, over the number of their members, `tensorboard/understanding` the figures of
what the run tells.

Of trials there are the first thousand, and later ones that are the best when they end: TensorBoard
shows no more than that in a time in which one would look at it, and each takes a folder.
"""

import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event as Record
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams, text

from raynas.record.events import (
    EnsembleMade,
    Event,
    Finished,
    Grown,
    Reported,
    Retrained,
    Retraining,
    Searched,
    SearchEnded,
    Selecting,
    Status,
    SupernetTrained,
    Understood,
)
from raynas.record.folder import RunFolder
from raynas.record.history import Evaluation, History
from raynas.reports.figures import mixed_slots, mixtures_figure
from raynas.reports.rendering import png
from raynas.reports.search_figures import SIZES, search_figure, size_figure
from raynas.understanding.findings import attempted
from raynas.understanding.flatness import Neighborhoods
from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.differentiable.collapse import collapse

_PARTS = (
    "search", "searches", "trials", "supernet", "selecting", "retraining", "ensemble",
    "understanding",
)  # fmt: skip


_GROUPS = ("search", "test", "train", "val")
_CONSTANT = ("params", "macs")  # of a network: columns of the HParams table, no curves
_TRIALS = 1000  # with curves and a row of the HParams table
_WAITING = 10_000  # records of a file that are written at once


class EventFile:
    """The event file of one TensorBoard run; open only while it is appended to.

    Args:
        folder: of the run.
        waits: whether records wait until `write`.
    """

    def __init__(self, folder: Path, waits: bool = False):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "events.out.tfevents.0.raynas"  # "tfevents" is what is looked for
        self.waits = waits
        self._waiting = [Record(wall_time=0, file_version="brain.Event:2")]

    def append(self, *records: Record) -> None:
        """Append records, or have them wait."""
        self._waiting += records
        if not self.waits or len(self._waiting) > _WAITING:
            self.write()

    def write(self) -> None:
        """Write what waits."""
        with self.path.open("ab") as file:
            writer = RecordWriter(file)
            for record in self._waiting:
                writer.write(record.SerializeToString())
        self._waiting = []


class TensorBoard:
    """Listens to the journal and writes TensorBoard files.

    Args:
        folder: of the files; what is there of an earlier writing goes.
        space: of the architectures.
        data: of the run.
    """

    def __init__(self, folder: Path, space: SearchSpace, data: Data):
        self.folder, self.space, self.data = folder, space, data
        for part in _PARTS:
            shutil.rmtree(self.folder / part, ignore_errors=True)
        self.history = History()
        self._files: dict[Path, EventFile] = {}
        self._catching_up = False
        self._neighborhoods = Neighborhoods(space)

    def catch_up(self, events: Iterable[Event]) -> None:
        """Write what earlier events add, each file at once."""
        self._catching_up = True
        for event in events:
            self(event)
        self._catching_up = False
        for file in self._files.values():
            file.waits = False
            file.write()

    def __call__(self, event: Event) -> None:
        """Write what an event adds."""
        self.history.apply(event)
        match event:
            case Reported():
                self._reported(event)
            case Finished():
                self._finished(event)
            case SupernetTrained():
                self._epoch(event.epoch, event, "supernet", f"{event.group:03d}")
            case Searched():
                self._searched(event)
            case SearchEnded():
                self._search_ended(event)
            case Selecting():
                self._epoch(event.epoch, event, "selecting", f"{event.evaluation:05d}")
            case Retraining():
                self._epoch(event.epoch, event, "retraining")
            case Retrained():
                self._retrained(event)
            case Grown():
                self._grown(event)
            case EnsembleMade():
                self._ensemble(event)
            case Understood():
                self._understood(event)

    def _epoch(
        self, epoch: int, event: SupernetTrained | Selecting | Retraining | Reported, *parts: str
    ) -> None:
        """Write the metrics of an epoch, without those that are the same after each."""
        varying = {key: v for key, v in event.metrics.items() if key not in _CONSTANT}
        self._file(*parts).append(_scalars(epoch, event.time, _tagged(varying)))

    def _reported(self, event: Reported) -> None:
        if event.evaluation >= _TRIALS:
            return
        epochs = self.history.evaluations[event.evaluation].epochs
        self._epoch(epochs, event, "trials", f"{event.evaluation:05d}")

    def _searched(self, event: Searched) -> None:
        """Write the metrics of an epoch; what is of the architecture parameters is `search`."""
        metrics = {
            key.replace("architecture_", "search_"): value for key, value in event.metrics.items()
        }
        scalars = _scalars(event.epoch, event.time, _tagged(metrics))
        self._file("searches", f"{event.search:03d}").append(scalars)

    def _search_ended(self, event: SearchEnded) -> None:
        """Write the mixtures of a search as a figure, and whether it looks collapsed."""
        epochs = self.history.searches.get(event.search)
        if not epochs:
            return
        figure = mixtures_figure(epochs, mixed_slots(self.space, self.data))
        summaries = [_image("mixtures", png(figure))]
        warning = collapse([epoch.metrics for epoch in epochs])
        if warning:
            summaries.append(text("collapse", warning))  # type: ignore[no-untyped-call]
        self._file("searches", f"{event.search:03d}").append(
            *(Record(wall_time=event.time, step=len(epochs), summary=s) for s in summaries)
        )

    def _finished(self, event: Finished) -> None:
        """Write one row of the HParams table, and the progress of the search."""
        evaluation, best = self.history.evaluations[event.evaluation], self.history.best
        if evaluation.index < _TRIALS:
            self._tell_trial(event, evaluation)
        elif evaluation is best:
            for epoch, metrics in enumerate(evaluation.history, start=1):
                self._epoch(epoch, Reported(evaluation.index, metrics, time=event.time),
                            "trials", f"{evaluation.index:05d}")  # fmt: skip
            self._hparams(event, evaluation)
        ended = len(self.history.finished)
        progress = {"search/evaluations": float(ended)}
        if best is not None:
            progress[f"search/best_{self.history.metric}"] = best.value
        self._file("search").append(_scalars(ended, event.time, progress))

    def _tell_trial(self, event: Finished, evaluation: Evaluation) -> None:
        """Write a trial's row, and how flat its surroundings and those of its neighbors are."""
        arch = self._hparams(event, evaluation)
        if evaluation.history and event.status in (Status.COMPLETED, Status.STOPPED):
            accuracy = evaluation.history[-1][self.history.metric]
            for changed in self._neighborhoods.add(evaluation.index, arch, accuracy):
                self._flatness(changed, event.time)

    def _hparams(self, event: Finished, evaluation: Evaluation) -> Architecture:
        """Write a trial's row of the HParams table; return its architecture."""
        arch, curve = self.space.from_string(evaluation.notation), evaluation.history
        metric = self.history.metric
        decided = {} if arch.name else self.space.to_config(arch)
        last = dict(curve[-1]) if curve else {}
        # Columns come in the order of their names, those of metrics last and often out of sight.
        columns = {
            **({f"achieved/{metric}": float(last[metric])} if metric in last else {}),
            "architecture": evaluation.notation,
            **{f"cost/{key}": float(last.pop(key)) for key in _CONSTANT if key in last},
            **{f"decision/{key}": str(value) for key, value in decided.items()},
        }
        first = {metric: last[metric]} if metric in last else {}
        row = hparams(columns, _tagged({**first, **last}))  # type: ignore[no-untyped-call]
        self._file("trials", f"{evaluation.index:05d}").append(
            *(Record(wall_time=event.time, summary=summary) for summary in row)
        )
        return arch

    def _flatness(self, index: int, time: float) -> None:
        """Write how flat an evaluation's surroundings are, over the number of neighbors known."""
        flat = self._neighborhoods[index]
        if flat is not None:
            values = {f"val/neighborhood_{name}": float(v) for name, v in flat._asdict().items()}
            self._file("trials", f"{index:05d}").append(_scalars(flat.neighbors, time, values))

    def _retrained(self, event: Retrained) -> None:
        """Draw the winner, and how the search has gone; what cannot be drawn is left out."""
        best = self.history.evaluations[event.evaluation]
        arch = self.space.from_string(best.notation)
        pictures: dict[str, Callable[[], Figure | None]] = {
            "winner": lambda: self.space.draw(arch),
            "figure_best_so_far": lambda: search_figure(self.history),
            **{
                f"figure_accuracy_against_{name}": partial(size_figure, self.history, best, name)
                for name in SIZES
            },
        }
        problems: dict[str, str] = {}
        for name, draw in pictures.items():
            figure = attempted(name, problems, draw)
            image = None if figure is None else attempted(name, problems, partial(png, figure))
            if image is not None:
                summary = _image(f"search/{name}", image)
                record = Record(
                    wall_time=event.time, step=len(self.history.finished), summary=summary
                )
                self._file("search").append(record)

    def _grown(self, event: Grown) -> None:
        values = {"search/members": float(len(event.members))}
        if event.objective is not None:
            values["search/objective"] = event.objective
        self._file("search").append(_scalars(event.iteration + 1, event.time, values))

    def _ensemble(self, event: EnsembleMade) -> None:
        shutil.rmtree(self.folder / "ensemble", ignore_errors=True)  # of an earlier one
        self._files = {k: v for k, v in self._files.items() if "ensemble" not in k.parts[-2:]}
        for point in reversed(event.curves):
            values = {k: v for k, v in point.items() if k not in ("rule", "members")}
            scalars = _scalars(point["members"], event.time, _tagged(values))
            self._file("ensemble", point["rule"]).append(scalars)

    def _understood(self, event: Understood) -> None:
        """Write the figures that the run folder has, over the number of evaluations."""
        for name in event.figures:
            path = RunFolder(self.folder.parent).understanding / f"{name}.png"
            if path.exists():
                summary = _image(f"understanding/{name}", path.read_bytes())
                self._file("understanding").append(
                    Record(wall_time=event.time, step=event.evaluations, summary=summary)
                )

    def _file(self, *parts: str) -> EventFile:
        folder = self.folder.joinpath(*parts)
        if folder not in self._files:
            self._files[folder] = EventFile(folder, waits=self._catching_up)
        return self._files[folder]


def _tagged(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics by the tags that TensorBoard groups them by: `val_accuracy`: `val/accuracy`.

    What belongs to no part of the data is `state/...`: TensorBoard shows groups in the order of
    their names, and nothing shall come before `search/`.
    """
    tagged = {}
    for key, value in metrics.items():
        group, _, name = key.partition("_")
        tag = f"{group}/{name}" if name and group in _GROUPS else f"state/{key}"
        tagged[tag] = float(value)
    return tagged


def _image(tag: str, png: bytes) -> Summary:
    """Return a PNG file of matplotlib as a summary."""
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _scalars(step: int, time: float, values: Mapping[str, float]) -> Record:
    summary = Summary(
        value=[
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if math.isfinite(value)
        ]
    )
    return Record(wall_time=time, step=step, summary=summary)
