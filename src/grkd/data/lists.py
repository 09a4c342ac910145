"""Lists: queries with their candidates, and what is known of their order; from files and data sets by name."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from grkd.data.sources import named_records, numbered_records
from grkd.data.text_rows import SEPARATORS
from grkd.data.tiers import tiered
from grkd.errors import UserError, nearest

# What the data say of the candidates' order: a score each, an order of all of them, or tiers (an order with ties).
Word = Literal["scores", "order", "tiers"]
_KEYS = ("query", "candidates", "scores", "order", "tiers", "grades")
_LARGEST_SCORE = 1e9  # differences and their squares stay far inside float32
_WORDS = ("scores", "order", "tiers")
_Row = tuple[str, Any]  # where it stands, for errors, and itself


@dataclass(frozen=True, kw_only=True)
class RankedList:
    """A query, the numbers of its candidates among the documents, and what is known of them.

    word: a number per candidate, higher is better, None if there is none for it: scores, or minus the tier's number.
    kind: what `word` is. grades: people's judgements, 0 is not relevant.
    """

    query: str
    candidates: tuple[int, ...]
    word: tuple[float | None, ...] | None = None
    kind: Word | None = None
    grades: tuple[float | None, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Lists over one corpus. judged: of each list, document number -> grade, also beyond its candidates."""

    documents: tuple[str, ...]
    train: tuple[RankedList, ...]
    heldout: tuple[RankedList, ...] = ()
    judged: dict[str, dict[int, float]] = field(default_factory=dict)  # by query
    left_out: dict[str, frozenset[int]] = field(default_factory=dict)  # by query: documents that are never ranked

    @property
    def word(self) -> Word | None:
        """The least that any list has: "tiers" below "order" below "scores"; None: some list has nothing."""
        kinds = {one.kind for one in (*self.train, *self.heldout)}
        if None in kinds:
            return None
        return next((kind for kind in ("tiers", "order") if kind in kinds), "scores")


def read_lists(train: Path, heldout: Path | None = None) -> Lists:
    """Lists from JSON Lines (or Parquet, JSON): query, candidates and one of scores, order, tiers; grades beside
    these or alone.

    candidates: two texts or more, each once. scores: a number per candidate, null for no opinion. order: numbers of
    candidates, from 0, best first. tiers: lists of such numbers, best first. Candidates that an order or tiers leave
    out share the last place. grades: people's judgements, a whole number from 0 per candidate; alone they are tiers.
    Raises UserError with file and line for what is missing, unknown, malformed or of another length.
    """
    return _gathered(str(train), _rows(train), () if heldout is None else _rows(heldout))


def read_named_lists(dataset: str, *, split: str, name: str | None = None, heldout_split: str | None = None) -> Lists:
    """The same from splits of a data set, by a name on the hub or a local folder; its other columns are not read.

    Raises UserError for a data set that cannot be had, and as read_lists, with the number of the row.
    """

    def rows(split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, row in enumerate(named_records(dataset, split=split, name=name)):
            yield f"{dataset}, split {split}, row {number}", {key: row[key] for key in _KEYS if key in row}

    return _gathered(f"{dataset}, split {split}", rows(split), () if heldout_split is None else rows(heldout_split))


def _gathered(name: str, train: Iterable[_Row], heldout: Iterable[_Row]) -> Lists:
    numbers: dict[str, int] = {}
    found = tuple(_list(where, row, numbers) for where, row in train)
    held = tuple(_list(where, row, numbers) for where, row in heldout)
    if not found:
        raise UserError(f'{name}: no lists in it; it needs a line for each, {{"query": ..., "candidates": [...]}}')
    judged: dict[str, dict[int, float]] = {}
    for one in (*found, *held):
        if one.grades is not None:
            pairs = zip(one.candidates, one.grades, strict=True)
            judged.setdefault(one.query, {}).update({number: grade for number, grade in pairs if grade is not None})
    return Lists(documents=tuple(numbers), train=found, heldout=held, judged=judged)


def _rows(path: Path) -> Iterator[_Row]:
    if path.suffix.lower() in SEPARATORS:
        raise UserError(f"{path}: a cell of a table cannot hold a list of candidates; give JSONL, Parquet or JSON")
    return ((where, row) for where, _, row in numbered_records(path, "a JSONL file of lists"))


def _list(where: str, row: Any, numbers: dict[str, int]) -> RankedList:
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with query and candidates, got {_shown(row)}")
    for key in row:
        if key not in _KEYS:
            near = nearest(key, _KEYS)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(_KEYS)}"
            raise UserError(f"{where}: unknown key {key!r}; {hint}")
    query, texts = row.get("query"), row.get("candidates")
    if not isinstance(query, str) or not query.strip():
        raise UserError(f"{where}: query: expected a text, got {_shown(query)}")
    if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(one, str) and one.strip() for one in texts):
        raise UserError(f"{where}: candidates: expected two texts or more, got {_shown(texts)}")
    stripped = [text.strip() for text in texts]
    if len(set(stripped)) < len(texts):
        twice = next(text for place, text in enumerate(texts) if text.strip() in stripped[:place])
        raise UserError(f"{where}: candidates: {_shown(twice)} appears twice; keep one of them")
    given = [key for key in _WORDS if row.get(key) is not None]
    if len(given) > 1:
        raise UserError(f"{where}: {' and '.join(given)} are both given; keep one of them")
    grades = _grades(where, row["grades"], len(texts)) if row.get("grades") is not None else None
    word = grades
    kind: Word | None = "tiers" if grades else None
    if given:
        word, kind = _word(where, given[0], row[given[0]], len(texts))
        if len({score for score in word if score is not None}) < 2:
            raise UserError(f"{where}: {given[0]}: no candidate is before another; drop the list, or say which is best")
    candidates = tuple(numbers.setdefault(text, len(numbers)) for text in texts)
    return RankedList(query=query, candidates=candidates, word=word, kind=kind, grades=grades)


def _word(where: str, key: str, value: Any, count: int) -> tuple[tuple[float | None, ...], Word]:
    if key == "scores":
        return _numbers(f"{where}: scores", value, count), "scores"
    if not isinstance(value, list):
        raise UserError(f"{where}: {key}: expected a list, got {_shown(value)}")
    tiers = [[one] for one in value] if key == "order" else value
    if not tiers or not all(isinstance(tier, list) and tier for tier in tiers):
        raise UserError(f"{where}: {key}: expected lists of candidates' numbers, best first, got {_shown(value)}")
    places = tiered(f"{where}: {key}", tiers, count)
    return tuple(-place for place in places), "order" if len(set(places)) == count else "tiers"


def _numbers(where: str, value: Any, count: int) -> tuple[float | None, ...]:
    if not isinstance(value, list) or len(value) != count:
        got = f"{len(value)} of them" if isinstance(value, list) else _shown(value)
        raise UserError(f"{where}: expected one number for each of the {count} candidates, got {got}")
    for one in value:
        known = isinstance(one, int | float) and not isinstance(one, bool)
        if one is not None and not known:
            raise UserError(f"{where}: expected numbers (null: no opinion), got {_shown(one)}")
        if one is not None and not abs(one) <= _LARGEST_SCORE:
            raise UserError(f"{where}: expected numbers between -1e9 and 1e9, got {_shown(one)}")
    return tuple(None if one is None else float(one) for one in value)


def _grades(where: str, value: Any, count: int) -> tuple[float | None, ...]:
    grades = _numbers(f"{where}: grades", value, count)
    for grade in grades:
        if grade is not None and (grade < 0 or grade != int(grade)):
            raise UserError(f"{where}: grades: expected whole numbers from 0 (not relevant), got {grade:g}")
    return grades


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:40] + "..."
