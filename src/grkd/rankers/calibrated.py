"""The teacher's log-probability of a response, corrected by its choice between the responses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from grkd.errors import UserError
from grkd.rankers._base import Columns, Given, Need, Prompts, Ranker, Resources, Responses, Teacher
from grkd.rankers._teacher import Choices, known_log_probs, teacher_of
from grkd.teacher.annotator import calibrated


@dataclass(kw_only=True)
class Calibrated(Ranker):
    """s = ratio * log_prob + (1 - ratio) * choice, both in nats: see the rankers of these names.

    A group that the teacher could not compare keeps log_prob alone.
    Raises UserError for a ratio outside [0, 1]. Source: arXiv 2502.14272 (PAD), calibration ratio 0.8.
    """

    needs: ClassVar[Need] = "teacher"

    ratio: float = field(default=0.8, metadata={"help": "share of the log-probability, 0 to 1"})

    _teacher: Teacher | None = field(default=None, init=False, repr=False)
    _choices: Choices | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise UserError(f"ranker calibrated: ratio must be between 0 and 1, got {self.ratio}")

    def open(self, resources: Resources) -> None:
        self._teacher = teacher_of(self.name, resources)
        self._choices = Choices(self._teacher)

    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        if self._choices is None:
            raise ValueError("open the ranker first")
        means = known_log_probs(self._teacher, prompts, responses, columns)
        verdicts = self._choices(prompts, responses)
        return [self._of_group(log_probs, verdict.log_wins) for log_probs, verdict in zip(means, verdicts, strict=True)]

    def _of_group(self, log_probs: Sequence[float], wins: Sequence[float] | None) -> Sequence[float]:
        if wins is None:
            return log_probs
        return [calibrated(mean, win, ratio=self.ratio) for mean, win in zip(log_probs, wins, strict=True)]

    def report(self) -> dict[str, Any]:
        return {} if self._choices is None else self._choices.report()

    def close(self) -> None:
        self._teacher = self._choices = None


RANKER = Calibrated
