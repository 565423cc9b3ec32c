"""TensorBoard files: a view of the journal, written anew whenever a run is continued.

`tensorboard/search` has the progress of the search, `tensorboard/trials/<evaluation>` the curves
of each trial and its row in the HParams table, `tensorboard/supernet/<group>` the training of the
shared weights, `tensorboard/retraining` the final training, `tensorboard/ensemble/<rule>` what the
ensembles that a rule leaves are worth, over the number of their members.
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event as Record
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import hparams

from raynas.record.journal import Event
from raynas.search.search import METRIC
from raynas.understanding.flatness import Neighborhoods
from search_spaces import SearchSpace

_PARTS = ("search", "trials", "supernet", "retraining", "ensemble")


class EventFile:
    """The event file of one TensorBoard run; open only while it is appended to."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "events.out.tfevents.0.raynas"  # "tfevents" is what is looked for
        self.append(Record(wall_time=0, file_version="brain.Event:2"))

    def append(self, *records: Record) -> None:
        """Append records."""
        with self.path.open("ab") as file:
            writer = RecordWriter(file)
            for record in records:
                writer.write(record.SerializeToString())


class TensorBoard:
    """Turns the events of a journal into TensorBoard files."""

    def __init__(self, folder: Path, space: SearchSpace):
        self.folder, self.space = folder / "tensorboard", space
        for part in _PARTS:
            shutil.rmtree(self.folder / part, ignore_errors=True)
        self._files: dict[Path, EventFile] = {}
        self._notation: dict[int, str] = {}
        self._history: dict[int, list[Mapping[str, float]]] = {}
        self._writers = {
            "session": self._session,
            "suggested": self._suggested,
            "reported": self._reported,
            "finished": self._finished,
            "supernet": self._supernet,
            "retraining": self._retraining,
            "grown": self._grown,
            "ensemble": self._ensemble,
        }
        self._metric = METRIC
        self._ended: set[int] = set()
        self._neighborhoods = Neighborhoods(space)
        self._best = (0, -math.inf)

    def __call__(self, event: Event) -> None:
        """Write what an event adds."""
        writer = self._writers.get(event["event"])
        if writer is not None:
            writer(event)

    def _session(self, event: Event) -> None:
        self._metric = event.get("metric", METRIC)

    def _suggested(self, event: Event) -> None:
        self._notation[event["evaluation"]] = event["architecture"]
        self._history[event["evaluation"]] = []

    def _reported(self, event: Event) -> None:
        index, metrics = event["evaluation"], event["metrics"]
        self._history[index].append(metrics)
        scalars = _scalars(len(self._history[index]), event["time"], _tagged(metrics))
        self._file("trials", f"{index:05d}").append(scalars)

    def _finished(self, event: Event) -> None:
        """One row of the HParams table, and the progress of the search."""
        index, time = event["evaluation"], event["time"]
        history = self._history[index]
        arch = self.space.from_string(self._notation[index])
        chosen = {key: str(value) for key, value in self.space.to_config(arch).items()}
        metrics = _tagged(history[-1]) if history else {}
        row = hparams(  # type: ignore[no-untyped-call]
            {"architecture": self._notation[index], **chosen}, metrics
        )
        self._file("trials", f"{index:05d}").append(
            *(Record(wall_time=time, summary=summary) for summary in row)
        )
        self._ended.add(index)
        if history and event["status"] in ("completed", "stopped"):
            self._best = max(self._best, (len(history), history[-1][self._metric]))
            for changed in self._neighborhoods.add(index, arch, history[-1][self._metric]):
                self._flatness(changed, time)
        progress = {
            "search/evaluations": float(len(self._ended)),
            f"search/best_{self._metric}": self._best[1],
        }
        self._file("search").append(_scalars(len(self._ended), time, progress))

    def _flatness(self, index: int, time: float) -> None:
        """How flat an evaluation's surroundings are, over the number of neighbors known."""
        flat = self._neighborhoods[index]
        if flat is not None:
            values = {f"neighborhood/{name}": float(v) for name, v in flat._asdict().items()}
            self._file("trials", f"{index:05d}").append(_scalars(flat.neighbors, time, values))

    def _supernet(self, event: Event) -> None:
        scalars = _scalars(event["epoch"], event["time"], _tagged(event["metrics"]))
        self._file("supernet", f"{event['group']:03d}").append(scalars)

    def _retraining(self, event: Event) -> None:
        scalars = _scalars(event["epoch"], event["time"], _tagged(event["metrics"]))
        self._file("retraining").append(scalars)

    def _grown(self, event: Event) -> None:
        values = {"growth/members": float(len(event["members"]))}
        if event["objective"] is not None:
            values["growth/objective"] = event["objective"]
        self._file("search").append(_scalars(event["iteration"] + 1, event["time"], values))

    def _ensemble(self, event: Event) -> None:
        shutil.rmtree(self.folder / "ensemble", ignore_errors=True)  # of an earlier one
        self._files = {k: v for k, v in self._files.items() if "ensemble" not in k.parts[-2:]}
        for point in reversed(event["curves"]):
            values = {k: v for k, v in point.items() if k not in ("rule", "members")}
            scalars = _scalars(point["members"], event["time"], _tagged(values))
            self._file("ensemble", point["rule"]).append(scalars)

    def _file(self, *parts: str) -> EventFile:
        folder = self.folder.joinpath(*parts)
        if folder not in self._files:
            self._files[folder] = EventFile(folder)
        return self._files[folder]


def _tagged(metrics: Mapping[str, float]) -> dict[str, float]:
    """`val_accuracy` as `val/accuracy`, so that TensorBoard groups the curves."""
    return {
        f"{group}/{name}" if name else group: float(value)
        for key, value in metrics.items()
        for group, _, name in [key.partition("_")]
    }


def _scalars(step: int, time: float, values: Mapping[str, float]) -> Record:
    summary = Summary(
        value=[
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if math.isfinite(value)
        ]
    )
    return Record(wall_time=time, step=step, summary=summary)
