"""The stages of a run, in their order."""

from raynas.stages.ensemble import EnsembleStage
from raynas.stages.export import ExportStage
from raynas.stages.report import ReportStage
from raynas.stages.retrain import RetrainStage
from raynas.stages.score import ScoreStage
from raynas.stages.search import SearchStage
from raynas.stages.select import SelectStage
from raynas.stages.stage import Stage
from raynas.stages.understand import UnderstandStage

__all__ = ["STAGES", "Stage"]

STAGES: tuple[Stage, ...] = (
    ScoreStage(),
    SearchStage(),
    SelectStage(),
    RetrainStage(),
    ExportStage(),
    EnsembleStage(),
    UnderstandStage(),
    ReportStage(),
)
