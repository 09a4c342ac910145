"""Pure losses on [rows, candidates] scores: one value a row, the reduction is the caller's."""

from grkd.losses._group_relative import Normalize, PairTarget, group_relative
from grkd.losses._soft_target import forward_kl, soft_target

__all__ = ["Normalize", "PairTarget", "forward_kl", "group_relative", "soft_target"]
