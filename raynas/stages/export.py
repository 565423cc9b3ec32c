"""The stage that exports the winner."""

from typing import ClassVar

from raynas.drivers.session import Session
from raynas.record import models
from raynas.record.checkpoints import Checkpoint
from raynas.record.folder import read_json, write_json
from raynas.stages.stage import Stage


class ExportStage(Stage):
    """Writes `best/`: the winner with its retrained weights, in forms that load anywhere."""

    name: ClassVar[str] = "export"

    def done(self, session: Session) -> bool:
        """See `Stage`."""
        folder, winner = session.folder.best, session.search.winner
        if winner is None or not (folder / "metrics.json").exists():  # it is written last
            return False
        return bool(read_json(folder / "architecture.json")["architecture"] == winner.notation)

    def run(self, session: Session) -> None:
        """Export the winner."""
        plan, search, folder = session.plan, session.search, session.folder.best
        winner, data = search.winner, plan.data
        assert winner is not None
        for name in (
            "metrics.json", "architecture.json",  # they say that the folder is whole
            "predictions.parquet",  # of an earlier winner
        ):  # fmt: skip
            (folder / name).unlink(missing_ok=True)
        arch = search.architectures[winner.index]
        network = plan.space.build(arch, data.input_shape, data.num_classes)
        state = Checkpoint.load(session.folder.retraining(winner.index))
        assert state.weights is not None
        network.load_state_dict(state.weights)
        content = {
            "space": plan.config.space,
            "architecture": winner.notation,
            "choices": list(arch.choices),
            **models.description(data),
        }
        formats = ["weights", "torch", *(["onnx"] if models.has_onnx() else [])]
        models.export(models.classifier(network, content), content, folder, formats)
        write_json(folder / "architecture.json", content)
        write_json(folder / "metrics.json", session.history.retrained[winner.index])
