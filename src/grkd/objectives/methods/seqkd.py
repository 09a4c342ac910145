"""Sequence-level KD: fine-tuning on the teacher's responses."""

from dataclasses import dataclass

from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._terms import Term, label_term


@dataclass(frozen=True, kw_only=True)
class SeqKD(Objective):
    """Cross-entropy on the tokens of responses that the teacher wrote; the teacher's probabilities are not used.

    L = -log p_S(y_t | x, y_<t), y sampled from the teacher
    Source: Kim and Rush, arXiv 1606.07947 (there y is the best of a beam search).
    """

    learns_from = "the teacher's responses"
    minimises = "cross-entropy on the tokens of the teacher's responses"
    source = "Kim and Rush, arXiv 1606.07947"
    needs_teacher = False
    trains_on = "teacher"

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        return (label_term(batch, 1.0),)


METHOD = SeqKD
