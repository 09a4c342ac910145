"""Cross-entropy on the labels, without a teacher: the control of every comparison."""

from dataclasses import dataclass

from grkd.objectives._base import Objective
from grkd.objectives._batch import Batch
from grkd.objectives._terms import Term, label_term


@dataclass(frozen=True, kw_only=True)
class NoDistillation(Objective):
    """Cross-entropy on the labels (classes, or the response's own tokens); the teacher's scores are not used.

    L = -log p_S(label)
    """

    learns_from = "the labels, or the tokens of the responses; the control"
    minimises = "cross-entropy on the labels (or the tokens of responses), without a teacher; the control"
    needs_teacher = False

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        return (label_term(batch, 1.0),)


METHOD = NoDistillation
