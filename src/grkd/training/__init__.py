"""One Trainer for language models and classifiers, and what it hooks in."""

from grkd.training.callbacks import MetricsFile, ProgressBar, WholeCheckpoints, last_whole_checkpoint
from grkd.training.rows import ClassRows, LanguageRows, Rows, RowSource
from grkd.training.trainer import DistillationTrainer

__all__ = [
    "ClassRows",
    "DistillationTrainer",
    "LanguageRows",
    "MetricsFile",
    "ProgressBar",
    "RowSource",
    "Rows",
    "WholeCheckpoints",
    "last_whole_checkpoint",
]
