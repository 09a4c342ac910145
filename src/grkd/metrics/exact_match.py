"""Questions with one right answer: the model answers, the answer is normalised, right means exactly equal.

What counts as the answer in a response (and in the file's own answer):
1. What follows the last "####" on its line; if there is none, what follows the last "answer is" or "answer:" on its
   line ("answer" may be bold); if there is none, the whole response. Where no letter or digit follows a mark on its
   line, the next line with one does. A mark with nothing behind it, or without a number if a number is wanted, is no
   mark.
2. Where the file's answer is a number, the last number of that text ("1,234", "$5", "50 %", "-3.50", "3/4", "1e5"; sign
   kept, thousands separators, currency and unit dropped), compared by value: 3.50 = 3.5, 1/2 = 0.5.
3. Otherwise the text itself, compared in NFKC form, in lower case, without punctuation, articles (a, an, the) and
   repeated spaces; articles stay if nothing else is there (the choice "A"), punctuation where the file's answer is
   nothing else (the sign "-"). What changes a value stays: a minus before a number, + < = > and their like, and a # or
   sharp behind a letter ("C#").
A response without a number, or without text, is wrong, and counted as `unparsed`; nothing is guessed.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from grkd.data.text_rows import json_rows
from grkd.errors import UserError
from grkd.files import read_text
from grkd.statistics import wilson_interval

_MARKS = (re.compile(r"####"), re.compile(r"\banswer[*_]*(?: is\b|\s*:)", re.IGNORECASE))
_WORD = re.compile(r"[^\W_]")  # a letter or digit
# A sign counts if no digit, letter or closing bracket stands before it: "3-4" holds 3 and 4, "= -4" holds -4.
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\d)|/\d+)?|\.\d+"
_NUMBER = re.compile(rf"(?:(?<![\w)])[-\u2212])?[$€£]?(?:{_DIGITS})")
# Signs that stay in a text: "x+1" is not "x-1", and "-5 degrees" not "5 degrees".
_OPERATORS = frozenset("+<=>\u00b1\u00d7\u00f7\u2260\u2264\u2265")
_MINUS = re.compile(r"(?<![\w)\]-])-(?=\.?\d)")
_SHARP = re.compile(r"(?<=[^\W\d_])#(?!\w)")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b(?!#)")


@dataclass(frozen=True)
class QuestionAndAnswer:
    """A question and its answer as the file gives them."""

    id: str
    question: str
    answer: str


def read_questions(path: Path, *, limit: int | None = None) -> list[QuestionAndAnswer]:
    """Read a JSONL file of {"question": text, "answer": text or number}, the first `limit` lines if given.

    "id" is optional (the line's number); other keys are ignored, blank lines skipped.
    Raises UserError with file and line for what is not like that.
    """
    content = read_text(path, 'a JSONL file of {"question", "answer"}')
    found: dict[str, QuestionAndAnswer] = {}
    for where, number, value in islice(json_rows(path, content, wanted='"question" and "answer"'), limit):
        question = _question(value, number, where)
        if question.id in found:
            raise UserError(f"{where}: id {question.id!r} occurs twice; make ids unique")
        found[question.id] = question
    if not found:
        raise UserError(f'{path}: no questions in it; write one {{"question", "answer"}} object a line')
    return list(found.values())


def number_in(text: str) -> Fraction | None:
    """The last number in a text, exactly, or None."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    digits = re.sub(r"[,$€£]", "", found[-1]).replace("\u2212", "-")
    try:
        return Fraction(digits)
    except (ZeroDivisionError, ValueError):  # 1/0, and more digits than Python reads
        return None


def normalised_text(text: str) -> str:
    """NFKC, lower case, no punctuation, repeated spaces, or articles (they stay if nothing else is there).

    Operators (+ < = >), a minus before a number and a sharp behind a letter stay, but for an "=" or "+" that the text
    begins with.
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-").replace("\u266f", "#")
    kept = {found.start(): " -" for found in _MINUS.finditer(plain)}
    kept |= {found.start(): "#" for found in _SHARP.finditer(plain)}
    plain = "".join(kept.get(at) or _spaced(character) for at, character in enumerate(plain))
    plain = " ".join(plain.split()).lstrip("=+ ")
    return " ".join(_ARTICLES.sub(" ", plain).split()) or plain


def _spaced(character: str) -> str:
    if character in _OPERATORS:
        return f" {character} "
    return " " if unicodedata.category(character)[0] in "PS" else character


def answer_part(text: str, *, number: bool = False) -> str:
    """What a text marks as its answer (rule 1 above), else the whole text; number: a number is wanted."""
    for mark in _MARKS:
        parts = (_following(text[found.end() :]) for found in mark.finditer(text))
        if kept := [part for part in parts if part and (not number or _NUMBER.search(part))]:
            return kept[-1]
    return text.strip()


def _following(text: str) -> str:
    """The rest of a mark's line; where no letter or digit is on it, the next line with one, up to another mark."""
    line, *more = text.split("\n")
    if _WORD.search(line):
        return line.strip()
    below = next((other.strip() for other in more if _WORD.search(other)), "")
    return line.strip() if not below or any(mark.search(below) for mark in _MARKS) else below


def grade(answer: str, response: str) -> tuple[str | None, bool]:
    """The answer found in a response (None: none found), and whether it is the right one."""
    wanted = answer_part(answer)
    if _is_number(wanted):
        value = number_in(answer_part(response, number=True))
        return None if value is None else str(value), value is not None and value == number_in(wanted)
    given = answer_part(response)
    right = normalised_text(wanted)
    if not right:
        return given or None, unicodedata.normalize("NFKC", given) == unicodedata.normalize("NFKC", wanted)
    text = normalised_text(given)
    return text or None, text == right


def score(questions: Sequence[QuestionAndAnswer], responses: Sequence[str]) -> dict[str, Any]:
    """Grade responses, wherever they come from: {"metrics", "items"}.

    metrics: exact_match (a share, with Wilson's 95 % interval) and unparsed (how many responses hold no answer).
    items: id, question, answer, response, found, correct (0 or 1), in the order of the questions: `correct` of two
    models goes into statistics.mcnemar. Raises ValueError for another number of responses.
    """
    items = []
    for question, response in zip(questions, responses, strict=True):
        found, correct = grade(question.answer, response)
        items.append({**vars(question), "response": response, "found": found, "correct": int(correct)})
    share = wilson_interval(sum(item["correct"] for item in items), len(items))
    unparsed = sum(item["found"] is None for item in items)
    return {
        "metrics": {
            "exact_match": share.as_json(),
            "unparsed": {"value": unparsed, "low": None, "high": None},
        },
        "items": items,
    }


def _is_number(text: str) -> bool:
    """Whether the text is one number, with or without a sign, currency and per cent."""
    return bool(_NUMBER.fullmatch(text.strip().rstrip("%.").removeprefix("+").strip())) and number_in(text) is not None


def _question(value: dict[str, Any], number: int, where: str) -> QuestionAndAnswer:
    for key in ("question", "answer"):
        given = value.get(key)
        text = key == "answer" and isinstance(given, int | float) and not isinstance(given, bool)
        if not text and not (isinstance(given, str) and given.strip()):
            raise UserError(f"{where}: {key} must be text{' or a number' if key == 'answer' else ''} and not empty")
    name = number if value.get("id") is None else value["id"]
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise UserError(f"{where}: id must be text or a whole number")
    return QuestionAndAnswer(str(name), value["question"], str(value["answer"]))
