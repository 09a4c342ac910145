"""Group Relative Knowledge Distillation: distil a model from how it ranks a group of candidates."""

from typing import TYPE_CHECKING, Any

from grkd import groups, losses, objectives, schedules
from grkd.errors import UserError
from grkd.objectives import GRKDLoss

__version__ = "0.1.0"
__all__ = [
    "GRKDConfig",
    "GRKDLoss",
    "GRKDTrainer",
    "UserError",
    "__version__",
    "groups",
    "losses",
    "objectives",
    "schedules",
]

if TYPE_CHECKING:
    from grkd.training import GRKDConfig, GRKDTrainer


def __getattr__(name: str) -> Any:
    """The trainer, imported when it is asked for: transformers takes seconds, the losses need torch alone."""
    if name in ("GRKDConfig", "GRKDTrainer"):
        from grkd import training

        return getattr(training, name)
    raise AttributeError(f"module 'grkd' has no attribute {name!r}")
