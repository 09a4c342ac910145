"""What the rankers that ask the teacher share."""

from collections.abc import Sequence

import numpy as np

from grkd.errors import UserError
from grkd.rankers._base import Columns, Prompt, Prompts, Ranker, Resources, Responses, Teacher
from grkd.teacher.annotator import Verdict


def teacher_of(name: str, resources: Resources) -> Teacher:
    """The teacher. Raises UserError if there is none."""
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


def verdicts_of(
    ranker: Ranker, teacher: Teacher | None, prompts: Prompts, responses: Responses, columns: Columns
) -> Sequence[Verdict]:
    """The teacher's choice between the responses of each group.

    Tallied: position_bias, the mean probability of the response shown first, minus 1/2; groups_cut, whose responses
    were shown without their ends; groups_not_compared, for which there was no room.
    """
    if teacher is None:
        raise ValueError("open the ranker first")
    verdicts = teacher.choices(prompts, responses, columns)
    for prompt, verdict, texts in zip(prompts, verdicts, responses, strict=True):
        _check_finite("choice", prompt, verdict.log_wins or ())
        ranker.tally("groups_cut", verdict.cut)
        ranker.tally("groups_not_compared", verdict.log_wins is None and len(texts) > 1)
        if verdict.first is not None:
            ranker.tally("position_bias", verdict.first - 0.5, over=1)
    return verdicts


def _check_finite(what: str, prompt: Prompt, values: Sequence[float]) -> None:
    """A teacher's NaN is a fault, not an abstention. Raises UserError with the prompt."""
    for value in values:
        if not np.isfinite(value):
            text = " ".join((prompt if isinstance(prompt, str) else prompt[-1]["content"]).split())[:60]
            raise UserError(
                f"the teacher's {what} of a response is {value} (prompt: {text!r}); "
                "try teacher.dtype: float32, or take the prompt out"
            )
