"""The teacher's own choice: which of two responses is better, over all pairs of a group in both orders."""

from dataclasses import dataclass, field
from typing import ClassVar

from grkd.rankers._base import Columns, Given, Need, Prompts, Ranker, Resources, Responses
from grkd.rankers._teacher import Choices, teacher_of


@dataclass(kw_only=True)
class Choice(Ranker):
    """s_i = log of the mean probability with which the teacher prefers response i to the others of its group, in nats.

    Both orders of every pair are asked, so that a preference for the first or the second place cancels; the preference
    is reported as position_bias. No opinion on groups of one response, nor where the prompt leaves no room for two.
    Source: the multiple-choice score of arXiv 2502.14272 (PAD); see grkd.teacher.annotator for the question.
    """

    needs: ClassVar[Need] = "teacher"

    _choices: Choices | None = field(default=None, init=False, repr=False)

    def open(self, resources: Resources) -> None:
        self._choices = Choices(teacher_of(self.name, resources))

    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        if self._choices is None:
            raise ValueError("open the ranker first")
        verdicts = self._choices(prompts, responses)
        return [verdict.log_wins or [None] * len(texts) for verdict, texts in zip(verdicts, responses, strict=True)]

    def report(self) -> dict[str, float]:
        return {} if self._choices is None else self._choices.report()

    def close(self) -> None:
        self._choices = None


RANKER = Choice
