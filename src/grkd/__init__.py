"""Group Relative Knowledge Distillation: distil a model from how it ranks a group of candidates.

What is named here is imported when it is asked for: the losses take PyTorch's time, the trainer transformers' too.
"""

import importlib
from typing import TYPE_CHECKING, Any

from grkd.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "GRKDConfig",
    "GRKDLoss",
    "GRKDTrainer",
    "UserError",
    "__version__",
    "from_trl",
    "groups",
    "losses",
    "objectives",
    "schedules",
]

if TYPE_CHECKING:
    from grkd import groups, losses, objectives, schedules
    from grkd.objectives import GRKDLoss
    from grkd.training import GRKDConfig, GRKDTrainer, from_trl

_MODULES = ("groups", "losses", "objectives", "schedules")
_CLASSES = {"GRKDLoss": "objectives", "GRKDConfig": "training", "GRKDTrainer": "training", "from_trl": "training"}


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        """A public module or class, imported now."""
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name in _CLASSES:
            return getattr(importlib.import_module(f"{__name__}.{_CLASSES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, for completion in a shell."""
    return sorted({*globals(), *__all__})
