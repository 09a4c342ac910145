"""Answers in responses and whether they are right: what the verifier asks, one function per kind of question."""

import logging
import re
import threading
from collections.abc import Callable
from typing import Any

from grkd.errors import UserError
from grkd.metrics.exact_match import answer_part, number_in

# The answer found (None: none), and whether it is right; None for the latter: the reference itself cannot be read.
Grade = tuple[str | None, bool | None]

_LETTER = r"\(?\**\(?([A-Za-z])(?![A-Za-z])(?!(?<=a)\s+[a-z])"  # "the answer is a dog" chooses none
_CHOSEN = (
    re.compile(r"\\boxed\{\s*(?:\\text\{)?\s*\(?([A-Za-z])\)?\s*\}"),
    re.compile(rf"(?i:\banswer(?: is\b|\s*:))[\s:*]*(?:(?i:option|choice)\s+)?{_LETTER}"),
    re.compile(r"\(([A-Z])\)"),
    re.compile(r"^\W*([A-Z])\W*$", re.MULTILINE),
)


def by_number(reference: str, response: str) -> Grade:
    """The last number of the response's answer, by value."""
    wanted, found = number_in(answer_part(reference, number=True)), number_in(answer_part(response, number=True))
    shown = None if found is None else str(found)
    return shown, None if wanted is None else found == wanted


def by_text(reference: str, response: str) -> Grade:
    """The whole response, character by character, without the white space around it."""
    return response.strip() or None, response.strip() == reference.strip()


def by_choice(reference: str, response: str) -> Grade:
    r"""The letter chosen: the last \boxed{B}, else "answer: B", else "(B)", else a line that holds only the letter."""
    wanted = _letter(reference) or next(iter(re.findall(r"^\W*([A-Za-z])\W*$", reference)), None)
    found = _letter(response)
    return found, None if wanted is None else found == wanted.upper()


def by_pattern(pattern: re.Pattern[str], reference: str | None, response: str) -> Grade:
    """The last match: its first group (the whole match without one) must be the answer, if there is one."""
    matches = list(pattern.finditer(response))
    if not matches:
        return None, False
    found = (matches[-1].group(1 if pattern.groups else 0) or "").strip()
    return found, reference is None or found == reference.strip()


def math_grader() -> Callable[[str, str], Grade]:
    """Grades expressions with math-verify: equal in value, not in writing. Raises UserError if it is missing."""
    try:
        from math_verify import parse, verify
    except ImportError:
        raise UserError("ranker verifier: kind math needs the math-verify package: pip install 'grkd[math]'") from None

    def by_math(reference: str, response: str) -> Grade:
        seconds = _alarm_seconds()
        wanted = parse(_as_latex(reference), parsing_timeout=seconds)
        if not wanted:
            return None, None
        found = parse(response, parsing_timeout=seconds)
        shown = str(found[-1]) if found else None
        return shown, bool(found) and bool(verify(wanted, found, timeout_seconds=seconds))

    return by_math


def _letter(text: str) -> str | None:
    for pattern in _CHOSEN:
        if found := pattern.findall(text):
            return str(found[-1]).upper()
    return None


def _as_latex(reference: str) -> str:
    """The reference between dollars, unless it has delimiters: as bare text math-verify reads 2\\pi as 2."""
    text = reference.strip()
    if "\\boxed" in text or "\\(" in text or "\\[" in text or text.count("$") > 1:
        return text
    return f"${text.replace('$', '')}$" if text else ""


def _alarm_seconds() -> Any:
    """math-verify's time limit works by signals, in the main thread alone; elsewhere there is none."""
    if threading.current_thread() is threading.main_thread():
        return 5
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it warns on every call that there is no limit
    return None
