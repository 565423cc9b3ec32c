"""What a run has found: read from its folder, finished or not."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

import search_spaces
from raynas.errors import StorageError, UnknownName
from raynas.record.folder import RunFolder, read_json
from raynas.record.history import History
from raynas.record.journal import read_events
from raynas.record.table import read_parquet, trials_table
from trials.places import place

if TYPE_CHECKING:  # it takes long to import, and only a model needs it
    from torch import nn

    from raynas.record.checkpoints import Checkpoint
    from raynas.record.predictions import Prediction
    from search_spaces import SearchSpace


_DISCARDED = (
    " Those of its last epoch were removed, as it was not among the best: see keep_checkpoints."
)


@dataclass(frozen=True)
class Best:
    """The best architecture of a run.

    Attributes:
        architecture: in the notation of the search space.
        metrics: `val_accuracy` as the search saw it; once it has been retrained,
            `test_accuracy` and the rest of `best/metrics.json`.
        folder: `best/` in the run folder.
    """

    architecture: str
    metrics: dict[str, Any]
    folder: Path

    def model(self, space: "SearchSpace | None" = None) -> "nn.Module":
        """Return the trained network, in evaluation mode, on the CPU.

        It takes images, `batch x channels x height x width`, and gives logits, `batch x classes`.
        They are float32 in 0..1, or uint8, of any height and width; or, where the run's data were
        floats beyond 0..1, floats in their units, and of their size. The network scales and
        normalizes them itself, and refuses others. It can be trained further: `model.train()`.
        Where only the user's own code could build the network, this is the exported one, which
        cannot be, unless `space` is given.

        Args:
            space: the user's own, of the run.

        Raises:
            StorageError: when it has not been retrained yet.
        """
        from raynas.record.models import ExportedModel, classifier, load_weights  # with torch

        if not (self.folder / "metrics.json").exists():  # it is written last
            raise StorageError(
                f"{self.folder} holds no model yet: the run is not finished. Continue it with"
                " `raynas resume`."
            )
        content = read_json(self.folder / "architecture.json")
        if content["architecture"] != self.architecture:
            raise StorageError(
                f"{self.folder} holds another architecture by now: load the run again."
            )
        try:
            space = space or search_spaces.get(content["space"])
        except UnknownName:  # a user's own space, which only the user could build
            return ExportedModel(self.folder, content)
        arch = space.from_string(content["architecture"])
        network = space.build(arch, content["input_shape"], content["num_classes"])
        model = classifier(network, content)
        load_weights(model, self.folder)
        return model.eval()

    def predict(self, images: Any) -> "list[Prediction]":
        """Return label and probabilities of each image.

        Args:
            images: a path of an image or of a folder of them, or several: of any size and kind,
                brought to what the network was trained with in the same way. Or an array or tensor
                of a batch: uint8, or floats as `model` takes them.

        Raises:
            DataError: for files that cannot be read as images, naming the first.
            InvalidArgument: for arrays that the network does not take.
            StorageError: when the network has not been retrained yet.
        """
        from raynas.record.predictions import predictions  # with torch

        model = self.model()
        return predictions(model, read_json(self.folder / "architecture.json"), images)


@dataclass(frozen=True)
class Ensemble:
    """The ensemble of a run; see `raynas.SAEP`.

    Attributes:
        folder: `ensemble/` in the run folder.
    """

    folder: Path

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Return what `ensemble.json` has: rule, combination, `metrics`, `excluded`, and more.

        What to compare with: `unpruned` (all candidates), `alone` (the best of them by validation
        loss), `delivered` (the retrained winner), and `warning`, a sentence where that is no worse.

        Raises:
            StorageError: when the folder is damaged.
        """
        return read_json(self.folder / "ensemble.json")

    @property
    def metrics(self) -> dict[str, Any]:
        """Return `members`; `val_` and `test_` `accuracy`, `loss`, `ece` (calibration error).

        And `params`, `macs` and `latency_ms`, of one image on the CPU.
        """
        metrics: dict[str, Any] = self.summary["metrics"]
        return metrics

    @property
    def excluded(self) -> dict[int, str]:
        """Return {evaluation: why it could not be a member}."""
        return {int(index): reason for index, reason in self.summary["excluded"].items()}

    @property
    def members(self) -> pd.DataFrame:
        """Return one row per member: `weight`, `contribution` to the validation accuracy, more."""
        return read_parquet(self.folder / "members.parquet")

    @property
    def curves(self) -> pd.DataFrame:
        """Return what the ensembles of every size that every rule leaves are worth and cost.

        A row has `rule` and what `metrics` has; latencies are sums over the members.
        """
        return read_parquet(self.folder / "curves.parquet")

    @property
    def diversity(self) -> pd.DataFrame:
        """Return `disagreement` and `vi` of every pair of candidates, `first` and `second`."""
        return read_parquet(self.folder / "diversity.parquet")

    def model(self) -> "nn.Module":
        """Return all members as one network, in evaluation mode, on the CPU.

        It takes images as `Best.model` does and gives logarithms of probabilities, `batch x
        classes`. It is the exported program, which cannot be trained further.
        """
        from raynas.record.models import ExportedModel  # with torch

        return ExportedModel(self.folder, self.summary.get("images"))


@dataclass(frozen=True)
class Result:
    """A run, as its folder has it.

    Attributes:
        path: the run folder; in an object store, what `trials.places.place` makes of its URL.
    """

    path: Path

    @property
    def folder(self) -> RunFolder:
        """Return the run folder with the paths in it."""
        return RunFolder(self.path)

    @property
    def history(self) -> History:
        """Return what has happened so far, read anew."""
        return History(read_events(self.path))

    @cached_property
    def trials(self) -> pd.DataFrame:
        """Return one row per evaluation: `architecture`, `status`, `epochs`, `val_accuracy`, more.

        `status` is `running` (or interrupted), `completed`, `stopped` (early, by the
        scheduler), `diverged` or `failed`, the last two with a `reason`. `curve` is
        `val_accuracy` after every epoch.
        """
        return trials_table(self.history)

    @property
    def best(self) -> Best:
        """Return the best architecture.

        Raises:
            StorageError: when nothing has been evaluated yet.
        """
        folder = self.folder.best
        if (folder / "metrics.json").exists():
            architecture = read_json(folder / "architecture.json")["architecture"]
            return Best(architecture, read_json(folder / "metrics.json"), folder)
        history = self.history
        best = history.chosen or history.best
        if best is None:
            raise StorageError(f"{self.path}: no evaluation has ended well yet.")
        row = trials_table(history).iloc[best.index].drop("curve").dropna()
        return Best(best.notation, {str(k): value for k, value in row.items()}, folder)

    @property
    def ensemble(self) -> Ensemble:
        """Return the ensemble.

        Raises:
            StorageError: when none has been made.
        """
        folder = self.folder.ensemble
        if not (folder / "ensemble.json").exists():  # it is written last
            raise StorageError(
                f"{self.path} holds no ensemble. Make one with `raynas ensemble`, or"
                " run(ensemble=...)."
            )
        return Ensemble(folder)

    def snapshot(self, evaluation: int, epoch: int) -> "Checkpoint":
        """Return weights and metrics of an evaluation after an epoch.

        Kept are those of the epochs that the argument `snapshots` of the run names, and those of
        the last epoch that the evaluation was trained for, unless `keep_checkpoints` says not to.

        Raises:
            StorageError: when they are not there, saying which are, or cannot be read.
        """
        from raynas.record.checkpoints import Checkpoint  # with torch

        folder, kept = self.folder, {}
        for number in folder.snapshots(evaluation):
            kept[number] = folder.snapshot(evaluation, number)
        try:
            if epoch in kept:
                return Checkpoint.load(kept[epoch])
            if (last := folder.checkpoint(evaluation)).exists():
                state = Checkpoint.load(last).only_weights()
                if state.weights is not None:
                    kept[len(state.history)] = last
                    if epoch == len(state.history):
                        return state
        except Exception as error:  # damaged files raise anything
            raise StorageError(
                f"The weights of evaluation {evaluation} in {folder.checkpoints} cannot be read:"
                f" {error!r}."
            ) from error
        gone = _DISCARDED if evaluation in self.history.discarded else ""
        there = f"only after {', '.join(map(str, sorted(kept)))}" if kept else "after none"
        raise StorageError(
            f"{self.path} holds no weights of evaluation {evaluation} after epoch {epoch},"
            f" {there}.{gone} A run with snapshots=[{epoch}] keeps them while it trains; what is"
            " trained already is not trained again, so start one under another name."
        )

    @property
    def finished(self) -> bool:
        """Return whether everything that was asked for is done."""
        return self.history.complete

    @property
    def metric(self) -> str:
        """Return what the search maximized: `val_accuracy`, or the name of a proxy."""
        return self.history.metric

    @property
    def config(self) -> dict[str, Any]:
        """Return the arguments of the run."""
        content = self.folder.read_configuration()
        del content["recorded"]
        return content


def load(path: str | Path) -> Result:
    """Return the result of a finished or unfinished run.

    Raises:
        StorageError: when `path` is not a run folder.
    """
    result = Result(place(path))
    if not result.folder.holds_run:
        raise StorageError(f"path={str(path)!r} is not a run folder: it has no run.yaml.")
    return result
