"""What a group is: which candidates are in it, and which pairs the teacher orders.

Scores have the shape [rows, candidates] (any number of leading axes works); a mask is True where a candidate exists.
Everything here is computed in at least float32: scores rounded to bf16 would make ties that the teacher does not have.
"""

from grkd.groups._chosen import CHOICES, Choice, Group, choose, sample, top
from grkd.groups._draws import uniforms_of_groups
from grkd.groups._pairs import has_pair, pairs
from grkd.groups._scores import checked_mask, wide

__all__ = [
    "CHOICES",
    "Choice",
    "Group",
    "checked_mask",
    "choose",
    "has_pair",
    "pairs",
    "sample",
    "top",
    "uniforms_of_groups",
    "wide",
]
