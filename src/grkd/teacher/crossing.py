"""Two vocabularies on one text: places where both predict what comes next, tokens that both spell, spans between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grkd.data.spelling import spellings, spelt
from grkd.errors import UserError

_FEWEST = 16  # tokens in common, below which nothing is to be learnt from them


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where two tokenisations of a response meet: numbers of tokens on both sides, rising.

    At place k the student predicts its token student[k] and the teacher its token teacher[k], both after the same text.
    """

    student: list[int]
    teacher: list[int]


class Crossing:
    """What the vocabularies of a student and a teacher have in common.

    student_ids, teacher_ids: int64 [shared], the ids of each token that both spell, and of the stop tokens.
    Raises UserError for tokenizers that are no byte-level BPE or SentencePiece, and for vocabularies too different.
    """

    def __init__(self, student: Any, teacher: Any, *, student_stop: int, teacher_stop: int) -> None:
        self.student, self.teacher = spellings(student), spellings(teacher)
        own, other = _first(self.student), _first(self.teacher)
        shared = [(number, other[word]) for word, number in own.items() if word in other]
        if len(shared) < _FEWEST:
            raise UserError(f"teacher: its vocabulary and the student's spell {len(shared)} tokens alike; too few")
        pairs = [*sorted(shared), (student_stop, teacher_stop)]
        self.student_ids, self.teacher_ids = torch.tensor(pairs).unbind(-1)

    def meeting(self, student_ids: Sequence[int], teacher_ids: Sequence[int]) -> Meeting:
        """Where two tokenisations of one response meet, as far as they spell the same text.

        A space that one side alone puts before the text is no part of it. A stop token stands at the text's end.
        """
        text, starts = spelt(student_ids, self.student)
        other, others = spelt(teacher_ids, self.teacher)
        extra = len(other) - len(other.lstrip(b" ")) - (len(text) - len(text.lstrip(b" ")))
        starts = [start + max(extra, 0) for start in starts]
        others = [start + max(-extra, 0) for start in others]
        text, other = b" " * max(extra, 0) + text, b" " * max(-extra, 0) + other
        alike = next((at for at, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), None)
        alike = min(len(text), len(other)) if alike is None else alike
        at = {start: number for number, start in reversed(list(enumerate(others)))}
        pairs = [(number, at[start]) for number, start in enumerate(starts) if start <= alike and start in at]
        return Meeting(student=[one for one, _ in pairs], teacher=[two for _, two in pairs])


def spans(places: Sequence[int], tokens: int) -> Tensor:
    """Number of the span that each of a response's tokens is in, [tokens]: it begins at a meeting place; -1: in none.

    The last span ends with the response.
    """
    found = torch.full((tokens,), -1)
    for number, place in enumerate(places):
        found[place:] = number
    return found


def _first(known: Sequence[bytes | None]) -> dict[bytes, int]:
    """The token that spells each text; of several the last, since tokens of single bytes stand before the others."""
    return {word: number for number, word in enumerate(known) if word}
