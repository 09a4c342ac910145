"""One Trainer for language models and classifiers, and what it hooks in.

What is named here is imported when it is asked for: students in lock-step do without transformers, which takes seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grkd.training.callbacks import FiniteSteps, MetricsFile, ProgressBar
    from grkd.training.checkpoints import WholeCheckpoints, last_whole_checkpoint
    from grkd.training.grkd_config import GRKDConfig
    from grkd.training.grkd_trainer import GRKDTrainer
    from grkd.training.language_rows import LanguageRows
    from grkd.training.rows import ClassRows, Forward, RowSource
    from grkd.training.trainer import DistillationTrainer
    from grkd.training.trl_configs import from_trl

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
    "from_trl",
    "last_whole_checkpoint",
]

_NAMES = {
    "callbacks": ("FiniteSteps", "MetricsFile", "ProgressBar"),
    "checkpoints": ("WholeCheckpoints", "last_whole_checkpoint"),
    "grkd_config": ("GRKDConfig",),
    "grkd_trainer": ("GRKDTrainer",),
    "language_rows": ("LanguageRows",),
    "rows": ("ClassRows", "Forward", "RowSource"),
    "trainer": ("DistillationTrainer",),
    "trl_configs": ("from_trl",),
}


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        """A public class or function, imported now."""
        for module, names in _NAMES.items():
            if name in names:
                return getattr(importlib.import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion in a shell."""
    return sorted({*globals(), *__all__})
