"""Group Relative Knowledge Distillation: distil a model from how it ranks a group of candidates."""

from grkd import groups, losses, objectives, schedules
from grkd.errors import UserError
from grkd.objectives import GRKDLoss

__version__ = "0.1.0"
__all__ = ["GRKDLoss", "UserError", "__version__", "groups", "losses", "objectives", "schedules"]
