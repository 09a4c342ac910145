"""One Trainer for language models and classifiers, and what it hooks in."""

from grkd.training.callbacks import FiniteSteps, MetricsFile, ProgressBar
from grkd.training.checkpoints import WholeCheckpoints, last_whole_checkpoint
from grkd.training.grkd_trainer import GRKDConfig, GRKDTrainer
from grkd.training.language_rows import LanguageRows
from grkd.training.rows import ClassRows, Forward, RowSource
from grkd.training.trainer import DistillationTrainer

__all__ = [
    "ClassRows",
    "DistillationTrainer",
    "FiniteSteps",
    "Forward",
    "GRKDConfig",
    "GRKDTrainer",
    "LanguageRows",
    "MetricsFile",
    "ProgressBar",
    "RowSource",
    "WholeCheckpoints",
    "last_whole_checkpoint",
]
