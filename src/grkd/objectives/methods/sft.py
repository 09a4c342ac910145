"""Supervised fine-tuning on the data's responses, without a teacher."""

from dataclasses import dataclass

from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._terms import Term, label_term


@dataclass(frozen=True, kw_only=True)
class SFT(Objective):
    """Cross-entropy on the tokens of the responses in the data.

    L = -log p_S(y_t | x, y_<t), y from the data
    """

    learns_from = "the data's responses"
    minimises = "cross-entropy on the tokens of the data's responses, without a teacher"
    needs_teacher = False
    trains_on = "data"

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        return (label_term(batch, 1.0),)


METHOD = SFT
