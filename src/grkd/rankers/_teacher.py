"""What the rankers that ask the teacher share."""

from collections.abc import Sequence

import numpy as np

from grkd.errors import UserError
from grkd.rankers._base import Columns, Prompt, Prompts, Resources, Responses, Teacher
from grkd.teacher.annotator import Verdict


def teacher_of(name: str, resources: Resources) -> Teacher:
    """The teacher. Raises UserError where there is none."""
    if resources.teacher is None:
        raise UserError(f"ranker {name} asks the teacher, and there is none here; name another ranker")
    return resources.teacher()


def known_log_probs(
    teacher: Teacher | None, prompts: Prompts, responses: Responses, columns: Columns
) -> Sequence[Sequence[float]]:
    """Mean log-probabilities from the column teacher_log_prob, or from the teacher where there is no such column."""
    if "teacher_log_prob" in columns:
        return columns["teacher_log_prob"]
    if teacher is None:
        raise ValueError("open the ranker first")
    means = teacher.mean_log_probs(prompts, responses, columns)
    for prompt, values in zip(prompts, means, strict=True):
        _check_finite("mean log-probability", prompt, values)
    return means


class Choices:
    """The teacher's choice between the responses of groups, with counts of what was cut and not compared.

    position_bias: how much more often the teacher takes the response that it is shown first: the mean probability of
    the first letter over all questions, minus 1/2.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.cut = self.silent = 0
        self._first: list[float] = []

    def __call__(self, prompts: Prompts, responses: Responses) -> Sequence[Verdict]:
        verdicts = self.teacher.choices(prompts, responses)
        for prompt, verdict, texts in zip(prompts, verdicts, responses, strict=True):
            _check_finite("choice", prompt, verdict.log_wins or ())
            self.cut += verdict.cut
            self.silent += verdict.log_wins is None and len(texts) > 1
            if verdict.first is not None:
                self._first.append(verdict.first)
        return verdicts

    def report(self) -> dict[str, float]:
        shares = {"groups_cut": float(self.cut), "groups_not_compared": float(self.silent)}
        return {**({"position_bias": float(np.mean(self._first)) - 0.5} if self._first else {}), **shares}


def _check_finite(what: str, prompt: Prompt, values: Sequence[float]) -> None:
    """A teacher's NaN is a fault, not an abstention. Raises UserError with the prompt."""
    for value in values:
        if not np.isfinite(value):
            text = " ".join((prompt if isinstance(prompt, str) else prompt[-1]["content"]).split())[:60]
            raise UserError(
                f"the teacher's {what} of a response is {value} (prompt: {text!r}); "
                "try teacher.dtype: float32, or take the prompt out"
            )
