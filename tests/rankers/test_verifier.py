"""Right or wrong: which answer a response has, and which of them are equal."""

import math
import sys
import threading

import numpy as np
import pytest
from trl.rewards import accuracy_reward

from grkd import rankers
from grkd.errors import UserError
from grkd.metrics.exact_match import grade
from grkd.rankers import Resources

CASES = {
    "answer": [("42", "so #### 42", 1), ("42", "the answer is 42.0", 1), ("Paris", "Answer: paris", 1), ("4", "5", 0)],
    "number": [("3", "2 and 3 are 3", 1), ("3", "3 or 4", 0), ("1/2", "0.50", 1), ("3", "none", 0)],
    "text": [("yes", " yes\n", 1), ("yes", "yes.", 0)],
    "choice": [
        ("B", r"Thus \boxed{B}", 1),
        ("B", "The answer is **B**", 1),
        ("B", "A dog is a dog. Answer: (B) a cat", 1),
        ("(B)", "(A) is wrong, (B) is right", 1),
        ("B", "I think so\nB.", 1),
        ("B", "A dog", 0),
        ("B", "The answer is Bananas", 0),
        ("A", "The answer is a banana", 0),
        ("A", "The answer is a.", 1),
        ("b", "answer is option b", 1),
    ],
    "math": [
        ("1/2", r"so it is $\frac{2}{4}$", 1),
        (r"\frac{1}{3}", r"\boxed{\frac{2}{6}}", 1),
        (r"2\pi", r"$2\pi$", 1),
        (r"2\pi", "2", 0),
        ("x^2+1", "$1 + x^2$", 1),
        ("1,234", "1234", 1),
        ("$5", "it costs $5", 1),
        (r"\sqrt{8}", r"$2\sqrt{2}$", 1),
        (r"\sqrt{8}", "no idea", 0),
    ],
}  # fmt: skip


def scored(texts: list[str], reference: str | None, **options: object) -> list[float]:
    ranker = rankers.load("verifier", **options)
    ranker.open(Resources())
    return list(ranker(["question"], [texts], {"answer": [reference]})[0])


@pytest.mark.parametrize(("kind", "answer", "response", "right"), [(k, *case) for k, v in CASES.items() for case in v])
def test_kinds(kind: str, answer: str, response: str, right: int) -> None:
    assert scored([response], answer, kind=kind) == [float(right)]


def test_answer_is_what_grkd_eval_grades() -> None:
    for answer, response, _ in CASES["answer"]:
        assert scored([response], answer) == [float(grade(answer, response)[1])]


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        (r"\frac{1}{3}", r"My answer is \boxed{\frac{1}{3}}"),
        (r"\frac{1}{3}", r"My answer is \boxed{\frac{1}{2}}"),
        ("$x^2 - 1$", r"\boxed{(x-1)(x+1)}"),
        (r"$\sqrt{2}$", r"\boxed{1.5}"),
        ("$12$", r"first $11$, then \boxed{12}"),
    ],
)
def test_math_agrees_with_trl(gold: str, response: str) -> None:
    expected = accuracy_reward([[{"role": "assistant", "content": response}]], [gold])
    assert scored([response], gold, kind="math") == expected


def test_regex_takes_the_group_of_the_last_match() -> None:
    options = {"kind": "regex", "pattern": r"<answer>(.*?)</answer>"}
    texts = ["<answer>3</answer> no, <answer> 4 </answer>", "<answer>4", "<answer>5</answer>"]
    assert scored(texts, "4", **options) == [1.0, 0.0, 0.0]
    assert scored(texts, None, **options, answer=None) == [1.0, 0.0, 1.0]


def test_no_opinion_without_a_readable_reference() -> None:
    assert all(math.isnan(value) for value in scored(["1", "2"], None))
    assert all(math.isnan(value) for value in scored(["1", "2"], "", kind="math"))
    assert all(math.isnan(value) for value in scored(["1", "2"], "none", kind="number"))


def test_a_list_holds_all_answers_that_are_right() -> None:
    ranker = rankers.load("verifier", kind="number")
    ranker.open(Resources())
    scores = ranker(["q", "q", "q"], [["so 2", "0.5", "3"], ["3"], ["1"]], {"answer": [["1/2", "2"], ["x", None], []]})
    np.testing.assert_array_equal(scores, [[1, 1, 0], [math.nan] * 3, [math.nan] * 3])


def test_a_response_without_an_answer() -> None:
    assert scored(["4", "no idea"], "4", kind="number") == [1.0, 0.0]
    found = scored(["4", "no idea"], "4", kind="number", unread="abstain")
    assert found[0] == 1.0
    assert math.isnan(found[1])
    assert scored(["4", "5"], "4", right=2.0, wrong=-1.0) == [2.0, -1.0]


def test_groups_have_their_own_answers_and_counts_are_reported() -> None:
    ranker = rankers.load("verifier", answer="solution", kind="number")
    ranker.open(Resources())
    found = ranker(["q", "q"], [["1", "2", "x"], ["2"]], {"solution": ["1", 2]})
    np.testing.assert_array_equal(found, [[1.0, 0.0, 0.0], [1.0, np.nan, np.nan]])
    assert {name: tally.value for name, tally in ranker.tallies.items()} == {"right": 0.5, "unreadable": 0.25}


def test_math_in_a_thread() -> None:
    """Its time limit works by signals, which other threads cannot have."""
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.extend(scored(["$\\frac{2}{4}$"], "1/2", kind="math")))
    thread.start()
    thread.join()
    assert found == [1.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "regex"}, "kind regex and pattern belong together"),
        ({"pattern": "x"}, "kind regex and pattern belong together"),
        ({"kind": "regex", "pattern": "("}, "is not a regular expression"),
        ({"answer": None}, "kind answer needs answer"),
        ({"right": 0.0}, "must be above wrong"),
        ({"kind": "maths"}, "kind should be 'answer', 'math'"),
        ({"anwser": "x"}, "did you mean 'answer'?"),
    ],
)
def test_mistakes(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as raised:
        rankers.load("verifier", **options)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_missing_column_is_named() -> None:
    ranker = rankers.load("verifier")
    ranker.open(Resources())
    with pytest.raises(UserError, match="no column 'answer'; they have: solution"):
        ranker(["q"], [["1"]], {"solution": ["1"]})


def test_math_verify_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match=r"pip install 'grkd\[math\]'"):
        rankers.load("verifier", kind="math").open(Resources())
