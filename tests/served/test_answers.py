"""Whatever a server answers: scores that can be used, or an error by which it is asked again or given up on."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from grkd.endpoint.client import BadAnswer
from grkd.errors import UserError
from grkd.served.answers import read_next, read_scores, read_written

ODD: list[Any] = [None, True, -1, 2**40, 1.5, float("nan"), float("inf"), "", "x", [], {}, [None], {"a": 1}, {"-3": {}}]
PLACE = {"7": {"logprob": -0.1, "decoded_token": "a"}, "8": {"logprob": -2.0}}
SCORES = {"model": "m", "choices": [{"prompt_logprobs": [None, PLACE, PLACE]}]}
NEXT = {"choices": [{"logprobs": {"top_logprobs": [{"token_id:7": -0.1, "token_id:8": -2.0}]}}]}
WRITTEN = {"choices": [{"text": "a", "token_ids": [7, 8], "finish_reason": "stop"}]}
# What the client takes for an answer that is none, and asks for again.
KNOWN = (BadAnswer, UserError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


def changed(value: Any) -> Iterator[Any]:
    """The value with every key and entry in turn replaced by each odd value, or taken out."""
    yield from copy.deepcopy(ODD)
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(inside):
        for other in changed(one):
            made = copy.deepcopy(value)
            made[key] = other
            yield made
        less = copy.deepcopy(value)
        del less[key]
        yield less


def test_scores() -> None:
    good = read_scores(SCORES, [1, 7, 8], start=1, k=2, model="m")
    assert (good.log_probs, good.top_ids) == ([-0.1, -2.0], [[7, 8], [7, 8]])
    for answer in changed(SCORES):
        try:
            found = read_scores(answer, [1, 7, 8], start=1, k=2, model="m")
        except KNOWN:
            continue
        assert all(0 <= token < 2**31 for each in found.top_ids for token in each)
        assert all(value <= 1e-3 for value in found.log_probs)


def test_the_next_token_and_texts() -> None:
    assert read_next(NEXT, model="m") == {7: -0.1, 8: -2.0}
    for answer in changed(NEXT):
        try:
            found = read_next(answer, model="m")
        except KNOWN:
            continue
        assert all(0 <= token < 2**31 and value <= 1e-3 for token, value in found.items())
    assert read_written(WRITTEN, max_tokens=2, model="m").ids == [7, 8]
    for answer in changed(WRITTEN):
        try:
            written = read_written(answer, max_tokens=2, model="m")
        except KNOWN:
            continue
        assert all(0 <= token < 2**31 for token in written.ids or ())


@pytest.mark.parametrize("name", ["-3", "99999999999"])
def test_an_id_that_no_token_has_is_named(name: str) -> None:
    place = {"7": {"logprob": -0.1}, name: {"logprob": -2.0}}
    with pytest.raises(BadAnswer, match=f"a token in its answer has the id {name}"):
        read_scores({"choices": [{"prompt_logprobs": [place]}]}, [7], start=0, k=1, model="m")
