"""The teacher's own choice: which of two responses is better, over all pairs of a group in both orders."""

from dataclasses import dataclass

from grkd.rankers._base import Columns, Given, Prompts, Responses
from grkd.rankers._teacher import AsksTeacher


@dataclass(kw_only=True)
class Choice(AsksTeacher):
    """s_i = log of the mean probability with which the teacher prefers response i to the others of its group, in nats.

    Both orders of every pair are asked, so that a preference for the first or the second place cancels; the preference
    is reported as position_bias. No opinion on groups of one response, nor where the prompt leaves no room for two.
    Source: the multiple-choice score of arXiv 2502.14272 (PAD); see grkd.teacher.annotator for the question.
    """

    def asked(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        verdicts = self.verdicts(prompts, responses, columns)
        return [verdict.log_wins or [None] * len(texts) for verdict, texts in zip(verdicts, responses, strict=True)]


RANKER = Choice
