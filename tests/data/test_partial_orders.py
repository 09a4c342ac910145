"""Partial orders of responses in records: the best of several, an order, tiers, grades with ties."""

import math
import re
from typing import Any

import pytest

from grkd.data.records import examples_of
from grkd.errors import UserError


@pytest.mark.parametrize(
    ("word", "scores"),
    [
        ({"best": 2}, [-1, -1, 0]),
        ({"best": [0, 2]}, [0, -1, 0]),
        ({"order": [1, 0, 2]}, [-1, 0, -2]),
        ({"order": [2]}, [-1, -1, 0]),
        ({"tiers": [[1], [0, 2]]}, [-1, 0, -1]),
        ({"beats": [[1, 0], [1, 2]]}, [-1, 0, -1]),
        ({"beats": [[2, 1], [1, 0]]}, [-2, -1, 0]),  # so 2 beats 0
        ({"teacher_scores": [4, 7, 4]}, [4, 7, 4]),  # grades with a tie
    ],
)
def test_partial_orders_of_responses(word: dict[str, Any], scores: list[float]) -> None:
    record = {"prompt": "p", "responses": ["a", "b", "c"], **word}
    (example,) = examples_of(record, default_id="1", where="here")
    assert example.scores == scores
    assert example.order_alone == ("teacher_scores" not in word)


def test_comparisons_say_no_more_than_follows_from_them() -> None:
    record = {"prompt": "p", "responses": ["a", "b", "c", "d", "e"]}
    (example,) = examples_of({**record, "beats": [[3, 1], [3, 0]]}, default_id="1", where="here")
    assert example.scores is not None
    assert [None if math.isnan(score) else score for score in example.scores] == [-1.0, -1.0, None, 0.0, None]
    with pytest.raises(UserError, match="nothing says which of responses 0 and 3 is better"):
        examples_of({**record, "beats": [[0, 1], [2, 3]]}, default_id="1", where="here")


def test_a_score_that_is_null_is_no_opinion() -> None:
    record = {"prompt": "p", "responses": ["a", "b", "a"], "teacher_scores": [1, 2, None]}
    (example,) = examples_of(record, default_id="1", where="here")
    assert example.scores is not None
    assert example.scores[:2] == [1.0, 2.0]
    assert math.isnan(example.scores[2])
    with pytest.raises(UserError, match="teacher_scores are all null"):
        examples_of({**record, "teacher_scores": [None] * 3}, default_id="1", where="here")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ({"best": 3}, "here: best: expected numbers of responses, 0 to 2, got 3"),
        ({"order": [0, 0]}, "here: order: response 0 appears twice"),
        ({"tiers": [0, 1]}, "here: tiers: expected numbers of responses, best first"),
        ({"tiers": [[0, 1, 2]]}, "here: tiers: no response is before another"),
        ({"best": b"x"}, "here: best: expected numbers of responses, 0 to 2, got "),
        ({"beats": [[0, 1], [1, 0]]}, "here: beats: the comparisons of response 0 form a cycle"),
        ({"beats": [[0, 3]]}, "here: beats: expected numbers of responses, 0 to 2, got 3"),
        ({"beats": [[0]]}, "here: beats: expected pairs of numbers, the better first, got [0]"),
        ({"beats": [[0, 1], [0, 2], [1, 0]]}, "form a cycle"),
        ({"best": 1, "order": [1]}, "here: best and order are both given; keep one of them"),
        ({"best": 1, "teacher_scores": [1, 2, 3]}, "teacher_scores and best are both given"),
    ],
)
def test_partial_orders_that_are_refused(word: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        examples_of({"prompt": "p", "responses": ["a", "b", "c"], **word}, default_id="1", where="here")
