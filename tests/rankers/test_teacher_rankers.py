"""Rankers that ask the teacher: its log-probability, its choice, and both."""

import math
from typing import Any

import numpy as np
import pytest

from grkd import rankers
from grkd.errors import UserError
from grkd.rankers import Resources
from grkd.teacher.annotator import Verdict

PROMPTS, RESPONSES = ["p", "q"], [["a", "b"], ["c"]]
MEANS = [[-1.0, -2.0], [-3.0]]
WINS = (math.log(0.25), math.log(0.75))


class FakeTeacher:
    def __init__(self) -> None:
        self.scored = 0

    def mean_log_probs(self, prompts: Any, responses: Any, columns: Any) -> Any:
        self.scored += 1
        return MEANS

    def choices(self, prompts: Any, responses: Any, columns: Any) -> list[Verdict]:
        return [Verdict(log_wins=WINS, cut=True, first=0.7), Verdict(log_wins=None)]


def opened(name: str, **options: Any) -> tuple[rankers.Ranker, FakeTeacher]:
    ranker, teacher = rankers.load(name, **options), FakeTeacher()
    ranker.open(Resources(teacher=lambda: teacher))
    return ranker, teacher


def test_log_prob() -> None:
    ranker, teacher = opened("log_prob")
    np.testing.assert_array_equal(ranker(PROMPTS, RESPONSES), [[-1.0, -2.0], [-3.0, math.nan]])
    assert teacher.scored == 1


@pytest.mark.parametrize("name", ["log_prob", "calibrated"])
def test_a_forward_pass_that_was_made_already_is_not_made_again(name: str) -> None:
    ranker, teacher = opened(name, **({"ratio": 1.0} if name == "calibrated" else {}))
    found = ranker(PROMPTS, RESPONSES, {"teacher_log_prob": [[-5.0, -6.0], [-7.0]]})
    np.testing.assert_array_equal(found, [[-5.0, -6.0], [-7.0, math.nan]])
    assert teacher.scored == 0


def test_choice_reports_its_position_bias() -> None:
    ranker, _ = opened("choice")
    np.testing.assert_array_equal(ranker(PROMPTS, RESPONSES), [[*WINS], [math.nan, math.nan]])
    assert {name: tally.value for name, tally in ranker.tallies.items()} == {
        "position_bias": pytest.approx(0.2),
        "groups_cut": 1.0,
        "groups_not_compared": 0.0,
    }


def test_calibrated_by_hand() -> None:
    """.8 log_prob + .2 choice; the group that was not compared keeps log_prob."""
    ranker, _ = opened("calibrated")
    expected = [[0.8 * -1 + 0.2 * WINS[0], 0.8 * -2 + 0.2 * WINS[1]], [-3.0, math.nan]]
    np.testing.assert_allclose(ranker(PROMPTS, RESPONSES), expected)


def test_nan_of_the_teacher_is_a_fault_and_no_abstention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTeacher, "mean_log_probs", lambda *given: [[-1.0, math.nan], [-1.0]])
    with pytest.raises(UserError, match=r"mean log-probability of a response is nan \(prompt: 'p'\); try"):
        opened("log_prob")[0](PROMPTS, RESPONSES)
    with pytest.raises(UserError, match=r"mean log-probability of a response is nan \(prompt: 'q'\)"):
        opened("log_prob")[0](PROMPTS, RESPONSES, {"teacher_log_prob": [[-1.0, -1.0], [math.nan]]})
    monkeypatch.setattr(FakeTeacher, "choices", lambda *given: [Verdict(log_wins=(0.0, math.nan))] * 2)
    with pytest.raises(UserError, match="the teacher's choice of a response is nan"):
        opened("choice")[0](PROMPTS, RESPONSES)


@pytest.mark.parametrize("name", ["log_prob", "choice", "calibrated"])
def test_without_a_teacher(name: str) -> None:
    with pytest.raises(UserError, match=f"ranker {name} asks the teacher, and there is none here"):
        rankers.load(name).open(Resources())
