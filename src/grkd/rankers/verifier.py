"""A checkable answer: right or wrong."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from grkd.errors import UserError
from grkd.metrics.exact_match import grade
from grkd.objectives import option
from grkd.rankers import _answers
from grkd.rankers._base import Columns, Given, Prompts, Ranker, Resources, Responses

Kind = Literal["answer", "math", "number", "text", "choice", "regex"]


@dataclass(kw_only=True)
class Verifier(Ranker):
    r"""`right` where the response's answer is the record's, `wrong` where it is not.

    kind "answer": what follows "####" or "answer:", numbers by value, else normalised text (as `grkd eval` grades).
    kind "math": numbers and LaTeX expressions by value (math-verify): 1/2, 0.5 and $\frac{2}{4}$ are equal.
    kind "number": the last number. kind "text": the whole response. kind "choice": the letter chosen.
    kind "regex": the last match of `pattern`, whose first group must be the answer;
    with answer: null a match is enough.
    A list in the column holds all answers that are right. No opinion on a group whose own answer is missing, or none of
    whose answers can be read.
    Raises UserError for an unknown kind, a pattern that is none, and for `math` without math-verify.
    """

    answer: str | None = option("answer", help="column with the right answer")
    kind: Kind = option("answer", help="how answers are found and compared")
    pattern: str | None = option(None, help="regular expression of kind regex")
    unread: Literal["wrong", "abstain"] = option("wrong", help="what a response without a readable answer is")
    right: float = option(1.0, help="score of a right answer")
    wrong: float = option(0.0, help="score of a wrong answer")

    _grade: Callable[[str, str], _answers.Grade] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.kind == "regex") != (self.pattern is not None):
            raise UserError("ranker verifier: kind regex and pattern belong together; give both or neither")
        if self.answer is None and self.kind != "regex":
            raise UserError(f"ranker verifier: kind {self.kind} needs answer, the column with the right answer")
        if not self.right > self.wrong:
            raise UserError(f"ranker verifier: right ({self.right}) must be above wrong ({self.wrong})")
        try:
            re.compile(self.pattern or "")
        except re.error as error:
            raise UserError(
                f"ranker verifier: pattern {self.pattern!r} is not a regular expression ({error})"
            ) from None

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.answer is None else (self.answer,)

    def check(self) -> None:
        self.open(Resources())

    def open(self, resources: Resources) -> None:
        kinds: dict[str, Callable[[], Callable[..., _answers.Grade]]] = {
            "answer": lambda: grade,
            "math": _answers.math_grader,
            "number": lambda: _answers.by_number,
            "text": lambda: _answers.by_text,
            "choice": lambda: _answers.by_choice,
            "regex": lambda: partial(_answers.by_pattern, re.compile(self.pattern or "")),
        }
        if self.kind not in kinds:
            raise UserError(f"ranker verifier: unknown kind {self.kind!r}; known: {', '.join(kinds)}")
        self._grade = kinds[self.kind]()

    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        references = [None] * len(responses) if self.answer is None else columns[self.answer]
        return [
            [self._scored(reference, text) for text in texts]
            for reference, texts in zip(references, responses, strict=True)
        ]

    def _scored(self, reference: Any, response: str) -> float | None:
        if self._grade is None:
            raise ValueError("open the ranker first")
        if reference is None and self.answer is not None:
            return None
        if self.answer is None:
            found, right = self._grade(reference, response)
        else:
            accepted = reference if isinstance(reference, list | tuple) else [reference]
            grades = [self._grade(str(one), response) for one in accepted if one is not None]
            found = next((grade[0] for grade in grades if grade[0] is not None), None)
            known = [grade[1] for grade in grades if grade[1] is not None]
            right = any(known) if known else None
        if right is None:
            return None
        self.tally("right", right, over=1)
        self.tally("unreadable", found is None, over=1)
        if found is None and self.unread == "abstain":
            return None
        return self.right if right else self.wrong


RANKER = Verifier
