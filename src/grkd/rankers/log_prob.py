"""The teacher's mean token log-probability of each response."""

from dataclasses import dataclass, field
from typing import ClassVar

from grkd.rankers._base import Columns, Given, Need, Prompts, Ranker, Resources, Responses, Teacher
from grkd.rankers._teacher import known_log_probs, teacher_of


@dataclass(kw_only=True)
class LogProb(Ranker):
    """s(y) = 1/|y| sum_t log p_T(y_t | x, y_<t), in nats per token.

    Column teacher_log_prob: these values, where a forward pass of the teacher has given them already.
    Source: the score of a response in arXiv 2502.14272 (PAD).
    """

    needs: ClassVar[Need] = "teacher"

    _teacher: Teacher | None = field(default=None, init=False, repr=False)

    def open(self, resources: Resources) -> None:
        self._teacher = teacher_of(self.name, resources)

    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        return known_log_probs(self._teacher, prompts, responses, columns)

    def close(self) -> None:
        self._teacher = None


RANKER = LogProb
