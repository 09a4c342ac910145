"""The teacher's own choice: which of two responses is better, over all pairs of a group in both orders."""

from dataclasses import dataclass, field
from typing import ClassVar

from grkd.rankers._base import Columns, Given, Need, Prompts, Ranker, Resources, Responses, Teacher
from grkd.rankers._teacher import teacher_of, verdicts_of


@dataclass(kw_only=True)
class Choice(Ranker):
    """s_i = log of the mean probability with which the teacher prefers response i to the others of its group, in nats.

    Both orders of every pair are asked, so that a preference for the first or the second place cancels; the preference
    is reported as position_bias. No opinion on groups of one response, nor where the prompt leaves no room for two.
    Source: the multiple-choice score of arXiv 2502.14272 (PAD); see grkd.teacher.annotator for the question.
    """

    needs: ClassVar[Need] = "teacher"

    _teacher: Teacher | None = field(default=None, init=False, repr=False)

    def open(self, resources: Resources) -> None:
        self._teacher = teacher_of(self.name, resources)

    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        verdicts = verdicts_of(self, self._teacher, prompts, responses, columns)
        return [verdict.log_wins or [None] * len(texts) for verdict, texts in zip(verdicts, responses, strict=True)]

    def close(self) -> None:
        self._teacher = None


RANKER = Choice
