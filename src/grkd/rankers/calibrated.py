"""The teacher's log-probability of a response, corrected by its choice between the responses."""

from collections.abc import Sequence
from dataclasses import dataclass

from grkd.errors import UserError
from grkd.objectives import option
from grkd.rankers._base import Columns, Given, Prompts, Responses
from grkd.rankers._teacher import AsksTeacher
from grkd.teacher.annotator import calibrated


@dataclass(kw_only=True)
class Calibrated(AsksTeacher):
    """s = ratio * log_prob + (1 - ratio) * choice, both in nats: see the rankers of these names.

    A group that the teacher could not compare keeps log_prob alone.
    Raises UserError for a ratio outside [0, 1]. Source: arXiv 2502.14272 (PAD), calibration ratio 0.8.
    """

    ratio: float = option(0.8, help="share of the log-probability, 0 to 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ratio <= 1:
            raise UserError(f"ranker calibrated: ratio must be between 0 and 1, got {self.ratio}")

    def asked(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        means = self.log_probs(prompts, responses, columns)
        verdicts = self.verdicts(prompts, responses, columns)
        return [self._of_group(log_probs, verdict.log_wins) for log_probs, verdict in zip(means, verdicts, strict=True)]

    def _of_group(self, log_probs: Sequence[float], wins: Sequence[float] | None) -> Sequence[float]:
        if wins is None:
            return log_probs
        return [calibrated(mean, win, ratio=self.ratio) for mean, win in zip(log_probs, wins, strict=True)]


RANKER = Calibrated
