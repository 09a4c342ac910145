"""What the rankers that ask the teacher share."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np

from grkd.errors import UserError
from grkd.objectives import option
from grkd.rankers._base import Columns, Given, Need, Prompt, Prompts, Ranker, Resources, Responses, Teacher
from grkd.rankers.several import column_of
from grkd.teacher.annotator import Verdict


@dataclass(kw_only=True)
class AsksTeacher(Ranker):
    """A ranker whose word is a teacher's: the only one's, or that of one of several.

    No opinion on records outside `only`. Raises UserError if there is no such teacher.
    """

    needs: ClassVar[Need] = "teacher"

    teacher: str | None = option(None, help="label of one of several teachers; null: the only one")
    only: dict[str, Any] | None = option(None, help="column and value of the records that it is asked about; null: all")

    _teacher: Teacher | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.only is not None and len(self.only) != 1:
            raise UserError(f"ranker {self.name}: only is one column and its value, such as {{subject: maths}}")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.only or ())

    def open(self, resources: Resources) -> None:
        if self.teacher is None and resources.teacher is not None:
            self._teacher = resources.teacher()
        elif self.teacher is not None and self.teacher in resources.teachers:
            self._teacher = resources.teachers[self.teacher]()
        elif self.teacher is None and not resources.teachers:
            raise UserError(f"ranker {self.name} asks the teacher, and there is none here; name another ranker")
        else:
            known = ", ".join(resources.teachers) or "none"
            raise UserError(f"ranker {self.name}: no teacher is labelled {self.teacher!r}; labels: {known}")

    @final
    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        places = [at for at in range(len(prompts)) if self._is_asked(columns, at)]
        found: list[Sequence[float | int | None]] = [[None] * len(texts) for texts in responses]
        part = {name: [values[at] for at in places] for name, values in columns.items()}
        given = self.asked([prompts[at] for at in places], [responses[at] for at in places], part)
        for at, values in zip(places, given, strict=True):
            found[at] = values
        return found

    @abstractmethod
    def asked(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        """As `score`, of the groups that the teacher is asked about."""

    def identity(self) -> dict[str, Any]:
        """As of every ranker; which of several teachers, only if there are several."""
        found = super().identity()
        return {name: value for name, value in found.items() if name not in ("teacher", "only") or value is not None}

    def close(self) -> None:
        self._teacher = None

    def _is_asked(self, columns: Columns, at: int) -> bool:
        return all(columns[name][at] == value for name, value in (self.only or {}).items())

    def log_probs(self, prompts: Prompts, responses: Responses, columns: Columns) -> Sequence[Sequence[float]]:
        """Mean log-probabilities, from the column of the teacher's (`column_of`) if there is one."""
        if (name := column_of(self.teacher)) in columns:
            means: Sequence[Sequence[float]] = columns[name]
        elif self._teacher is None:
            raise ValueError("open the ranker first")
        else:
            means = self._teacher.mean_log_probs(prompts, responses, columns)
        for prompt, values in zip(prompts, means, strict=True):
            _check_finite("mean log-probability", prompt, values)
        return means

    def verdicts(self, prompts: Prompts, responses: Responses, columns: Columns) -> Sequence[Verdict]:
        """The teacher's choice between the responses of each group.

        Tallied: position_bias, the mean probability of the response shown first, minus 1/2; groups_cut, whose responses
        were shown without their ends; groups_not_compared, for which there was no room.
        """
        if self._teacher is None:
            raise ValueError("open the ranker first")
        found = self._teacher.choices(prompts, responses, columns)
        for prompt, verdict, texts in zip(prompts, found, responses, strict=True):
            _check_finite("choice", prompt, verdict.log_wins or ())
            self.tally("groups_cut", verdict.cut)
            self.tally("groups_not_compared", verdict.log_wins is None and len(texts) > 1)
            if verdict.first is not None:
                self.tally("position_bias", verdict.first - 0.5, over=1)
        return found


def _check_finite(what: str, prompt: Prompt, values: Sequence[float]) -> None:
    """A teacher's NaN is a fault, not an abstention. Raises UserError with the prompt."""
    for value in values:
        if not np.isfinite(value):
            text = " ".join((prompt if isinstance(prompt, str) else prompt[-1]["content"]).split())[:60]
            raise UserError(
                f"the teacher's {what} of a response is {value} (prompt: {text!r}); "
                "try teacher.dtype: float32, or remove the prompt"
            )
