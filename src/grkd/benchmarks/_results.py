"""Parts of a result that several benchmarks share."""

from collections.abc import Mapping, Sequence
from typing import Any

from grkd.answers.question import Text
from grkd.files import digest


def asked(*texts: str) -> str:
    """What an item is known by besides its id: runs on other questions are never taken for paired ones."""
    return digest(texts)[:16]


def cost_of_answers(answers: Mapping[str, Sequence[Text]]) -> dict[str, int]:
    """Answers and their tokens, prompts that did not fit the context, and answers that ended at the limit."""
    texts = [text for turns in answers.values() for text in turns]
    return {
        "answers": len(texts),
        "too_long": sum(text.too_long for text in texts),
        "unfinished": sum(not text.finished and not text.too_long for text in texts),
        "answer_tokens": sum(text.tokens for text in texts),
    }


def with_asked(found: dict[str, Any]) -> dict[str, Any]:
    """The result with a digest of each item's question and answer, so that other questions are never compared."""
    items = [{**item, "asked": asked(item["question"], item["answer"])} for item in found.get("items", ())]
    return {**found, "items": items}


def without_interval(number: float | None) -> dict[str, float | None]:
    """A metric without an interval."""
    return {"value": number, "low": None, "high": None}


def win_rate_result(found: Mapping[str, Any]) -> dict[str, Any]:
    """Win rates and scores as metrics; counts and notes stay beside them. low, high belong to the score, if any."""
    names = ("win_rate", "length_controlled_win_rate", "score", "discrete_win_rate")
    bounded = "score" if "score" in found else "win_rate"
    metrics = {
        name: {
            "value": found[name],
            "low": found.get("low") if name == bounded else None,
            "high": found.get("high") if name == bounded else None,
        }
        for name in names
        if name in found
    }
    rest = {name: value for name, value in found.items() if name not in (*names, "low", "high")}
    return {"metrics": metrics, **rest}
