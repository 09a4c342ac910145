"""The teacher's mean token log-probability of each response."""

from dataclasses import dataclass

from grkd.rankers._base import Columns, Given, Prompts, Responses
from grkd.rankers._teacher import AsksTeacher


@dataclass(kw_only=True)
class LogProb(AsksTeacher):
    """s(y) = 1/|y| sum_t log p_T(y_t | x, y_<t), in nats per token.

    Column teacher_log_prob: these values, where a forward pass of the teacher has given them already.
    Source: the score of a response in arXiv 2502.14272 (PAD).
    """

    def asked(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        return self.log_probs(prompts, responses, columns)


RANKER = LogProb
