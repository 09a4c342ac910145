"""Grades that the records hold: people's, or those of an earlier run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grkd.errors import UserError
from grkd.objectives import option
from grkd.rankers._base import Columns, Given, Prompts, Ranker, Responses, Value


@dataclass(kw_only=True)
class Data(Ranker):
    """The number in the record: a list with one grade per response, or one grade for the whole group (no pair).

    Without a column: the grades that came with responses from the data (teacher_scores, or chosen and rejected), which
    follow their responses when a group is a selection of them. null and NaN: no opinion.
    Raises UserError for a column that holds no numbers or another number of grades than responses.
    """

    column: str | None = option(None, help="column with the grades; default: teacher_scores")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.column or "data_score",)

    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        grades = columns[self.reads[0]]
        return [self._of_group(number, grades[number], len(texts)) for number, texts in enumerate(responses)]

    def _of_group(self, number: int, grades: Any, size: int) -> Sequence[Value]:
        what = f"ranker data: column {self.reads[0]!r} of group {number}"
        if not isinstance(grades, list | tuple):
            grades = [grades] * size
        if len(grades) != size:
            raise UserError(f"{what} has {len(grades)} grades for {size} responses; give one per response")
        for grade in grades:
            if grade is not None and (isinstance(grade, bool) or not isinstance(grade, int | float)):
                raise UserError(f"{what} holds {grade!r}; grades are numbers, null for no opinion")
        return list(grades)


RANKER = Data
