"""The responses of a record as a group: their texts or messages, and a score of each."""

import math
from collections.abc import Sequence
from typing import Any

from grkd.data.conversation import Answer, answer_of, check_text, kind, message_of, read_messages
from grkd.data.tiers import compared, tiered
from grkd.errors import UserError

GROUP_KEYS = ("responses", "teacher_scores")
ORDER_KEYS = ("best", "order", "tiers", "beats")  # read beside responses alone, in place of teacher_scores
PAIR_KEYS = ("chosen", "rejected")
_LARGEST_SCORE = 1e9  # differences and their squares stay far inside float32


def read_group(responses: Any, scores: Any, where: str) -> tuple[list[Answer] | None, list[float] | None]:
    """Responses and their scores, each None if there are none; a score that is null is NaN: no opinion.

    Raises UserError for what is malformed, and for a response that has two scores.
    """
    if responses is None:
        if scores is not None:
            raise UserError(f"{where}: teacher_scores without responses; give both or neither")
        return None, None
    if not isinstance(responses, list) or not responses:
        raise UserError(f"{where}: responses must be a list of one text or more")
    names = [f"responses[{index}]" for index in range(len(responses))]
    answers = [read_answer(response, name, where) for response, name in zip(responses, names, strict=True)]
    given = None if scores is None else _scores(scores, len(responses), where)
    if given is not None:
        check_agreement(answers, names, given, where)
    return answers, given


def scores_of_order(record: dict[str, Any], where: str) -> list[float | None] | None:
    """Minus the tier of each response, from its record's best, order, tiers or beats; None if it has none of them.

    best: a response's number, from 0, or several; the others share the place below. order: numbers, best first.
    tiers: lists of numbers, best first. Responses that an order or tiers leave out share the last place. beats: pairs
    of numbers, the better first; a response in none of them has None.
    Raises UserError for numbers that are none of the responses', and for more than one word on the order.
    """
    given = [key for key in ("teacher_scores", *ORDER_KEYS) if record.get(key) is not None]
    own = [key for key in given if key in ORDER_KEYS]
    if not own or not isinstance(record.get("responses"), list):
        return None
    if len(given) > 1:
        raise UserError(f"{where}: {' and '.join(given)} are both given; keep one of them")
    key, value = own[0], record[own[0]]
    tiers = {"best": [value if isinstance(value, list) else [value]], "tiers": value, "beats": value}.get(key)
    if key == "order" and isinstance(value, list):
        tiers = [[one] for one in value]
    if not isinstance(tiers, list) or not tiers or not all(isinstance(tier, list) and tier for tier in tiers):
        raise UserError(f"{where}: {key}: expected numbers of responses, best first, got {kind(value)}")
    read = compared if key == "beats" else tiered
    places = read(f"{where}: {key}", tiers, len(record["responses"]), noun="response")
    if len(places) > 1 and len(set(places)) == 1:
        raise UserError(f"{where}: {key}: no response is before another; drop the record, or say which is best")
    return [None if math.isnan(place) else -place for place in places]


def read_answer(value: Any, name: str, where: str) -> Answer:
    """A response: text, an assistant's message, or a list with that message alone."""
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return check_text(value, name, where)
    turns = read_messages(
        [{"role": "assistant", **turn} if isinstance(turn, dict) else turn for turn in value], name, where
    )
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise UserError(f"{where}: {name} must be text, or one assistant message")
    return answer_of(turns[0])


def check_agreement(answers: Sequence[Answer], names: Sequence[str], scores: Sequence[float], where: str) -> None:
    """Raises UserError for two answers that are the same, outer white space aside, with different scores."""
    first: dict[str, int] = {}
    for index, text in enumerate(map(_text, answers)):
        earlier = first.setdefault(text, index)
        if scores[earlier] != scores[index] and not math.isnan(scores[earlier] + scores[index]):
            pair = f"{names[earlier]} and {names[index]}"
            raise UserError(f"{where}: {pair} are the same, but one is better than the other; drop one, or the record")


def all_the_same(answers: Sequence[Answer]) -> bool:
    """Whether there are several answers without a difference, outer white space aside: nothing to put in order."""
    return len(answers) > 1 and len(set(map(_text, answers))) == 1


def _text(answer: Answer) -> str:
    message = message_of(answer)
    return repr(sorted({**message, "content": message["content"].strip()}.items()))


def _scores(scores: Any, count: int, where: str) -> list[float]:
    if not isinstance(scores, list) or len(scores) != count:
        found = str(len(scores)) if isinstance(scores, list) else kind(scores)
        raise UserError(f"{where}: {count} responses need {count} teacher_scores, got {found}")
    if all(score is None for score in scores):
        raise UserError(f"{where}: teacher_scores are all null; give scores, or remove the key")
    for index, score in enumerate(scores):
        if score is None:  # no opinion
            continue
        if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= _LARGEST_SCORE:
            found = f"{score:g}" if isinstance(score, float) else kind(score)
            raise UserError(f"{where}: teacher_scores[{index}] must be a number between -1e9 and 1e9, got {found}")
    return [math.nan if score is None else float(score) for score in scores]
