"""Rankers by name, grades in the data, and panels of several."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grkd import rankers
from grkd.errors import UserError
from grkd.rankers import Member, Panel, Ranker, Resources, Tally, panel

COLUMNS = {"answer": ["4", "5"], "grades": [[1.0, 2.0], [None, 0.5]]}
RESPONSES = [["4", "5"], ["4", "5"]]


@dataclass(kw_only=True)
class Longest(Ranker):
    """A ranker of one's own."""

    def score(self, prompts: Any, responses: Any, columns: Any) -> Any:
        return [[len(text) for text in texts] for texts in responses]


class TestRegistry:
    def test_names_are_files(self) -> None:
        expected = "calibrated choice data function judge log_prob reward_model verifier"
        assert rankers.names() == expected.split()

    @pytest.mark.parametrize("name", rankers.names())
    def test_every_ranker_says_what_it_needs_and_each_option_has_help(self, name: str) -> None:
        chosen = rankers.ranker(name)
        assert chosen.name == name
        assert chosen.needs in ("none", "teacher", "device", "endpoint")
        assert chosen.__doc__
        for field in fields(chosen):
            assert not field.init or len(field.metadata["help"]) > 10, field.name

    def test_a_class_of_ones_own(self) -> None:
        ranker = rankers.load(f"{__name__}:Longest")
        assert ranker.name == "Longest"
        np.testing.assert_array_equal(ranker(["p"], [["a", "bcd"]]), [[1.0, 3.0]])

    @pytest.mark.parametrize(
        ("name", "options", "said"),
        [
            ("verifyer", {}, "did you mean 'verifier'?"),
            ("json:loads", {}, "json is in Python's standard library"),
            ("judge", {"url": "http://x/v1"}, "ranker judge needs model"),
            ("calibrated", {"ratio": 2.0}, "between 0 and 1"),
            ("calibrated", {"ratio": "a"}, "ratio should be a valid number"),
            ("judge", {"url": "http://x/v1", "model": "m", "max_requests": 0}, "max_requests must be 1 or more"),
        ],
    )
    def test_mistakes(self, name: str, options: dict[str, Any], said: str) -> None:
        with pytest.raises(UserError, match=None) as raised:
            rankers.load(name, **options)
        assert said in str(raised.value)


class TestData:
    def test_grades_per_response_and_per_group(self) -> None:
        np.testing.assert_array_equal(
            rankers.load("data", column="grades")(["a", "b"], RESPONSES, COLUMNS), [[1.0, 2.0], [math.nan, 0.5]]
        )
        found = rankers.load("data", column="stars")(["a", "b"], RESPONSES, {"stars": [3, None]})
        np.testing.assert_array_equal(found, [[3.0, 3.0], [math.nan, math.nan]])

    def test_grades_that_came_with_the_responses(self) -> None:
        np.testing.assert_array_equal(rankers.load("data")(["a"], [["x", "y"]], {"data_score": [[0, 1]]}), [[0.0, 1.0]])

    @pytest.mark.parametrize(
        ("grades", "said"),
        [([1.0], "has 1 grades for 2 responses"), (["good", "bad"], "holds 'good'"), ([True, 0], "True")],
    )
    def test_mistakes(self, grades: list[Any], said: str) -> None:
        with pytest.raises(UserError, match=said):
            rankers.load("data", column="grades")(["a"], [["x", "y"]], {"grades": [grades]})


class TestPanel:
    def test_entries(self) -> None:
        def short(completions: list[str]) -> list[float]:
            return [-len(text) for text in completions]

        made = panel(
            ["log_prob", {"name": "verifier", "weight": 2, "label": "right", "kind": "number"}, Longest(), short]
        )
        assert made.labels == ["log_prob", "right", "Longest", "short"]
        assert made.weights == [1.0, 2.0, 1.0, 1.0]
        assert made.needs == {"teacher"}
        assert made.reads == {"answer"}

    def test_votes_of_two(self, tmp_path: Path) -> None:
        made = panel([{"name": "verifier", "kind": "number"}, {"name": "data", "column": "grades"}], combine="votes")
        with made as judges:
            judges.open(Resources(folder=tmp_path))
            found = judges(["a", "b"], RESPONSES, COLUMNS)
        assert found.order.votes is not None
        # The first group: one for each. The second: the verifier alone, since a grade is missing.
        np.testing.assert_array_equal(found.order.votes.share[:, 0, 1], [0.5, 0.0])
        np.testing.assert_array_equal(found.order.votes.weight[:, 0, 1], [2.0, 1.0])
        assert judges.tallies(reset=True)["verifier"]["right"] == Tally(2, 4)
        assert judges.tallies() == {"verifier": {}, "data": {}}

    def test_lexicographic_follows_the_list(self) -> None:
        entries = [{"name": "verifier", "kind": "number"}, {"name": "data", "column": "grades"}]
        for listed, best in ((entries, 0), (entries[::-1], 1)):
            judges = panel(listed, combine="lexicographic")
            judges.open(Resources())
            assert judges(["a", "b"], RESPONSES, COLUMNS).order.scores[0].argmax() == best

    def test_ragged_groups(self) -> None:
        found = panel([Longest()])(["a", "b"], [["x"], ["x", "yy"]])
        np.testing.assert_array_equal(found.order.scores, [[1.0, math.nan], [1.0, 2.0]])

    @pytest.mark.parametrize(
        ("entries", "said"),
        [
            ([], "the list is empty"),
            (["log_prob", "log_prob"], "'log_prob' appears twice"),
            ([{"name": "log_prob", "weight": 0}], "weight must be a number above 0"),
            ([{"label": "x"}], "expected a name or a mapping with name"),
            ([3], "expected a name or a mapping with name"),
        ],
    )
    def test_mistakes(self, entries: list[Any], said: str) -> None:
        with pytest.raises(UserError, match=said):
            panel(entries)

    def test_unknown_combination(self) -> None:
        with pytest.raises(UserError, match="unknown combine 'vote'; known: weights"):
            Panel([Member(ranker=Longest(), label="a")], combine="vote")


class TestIdentity:
    """What a stage that stores scores is rebuilt for."""

    def test_options_and_combination_count(self) -> None:
        entries: list[Any] = [{"name": "verifier", "kind": "number"}, {"name": "log_prob", "weight": 2.0}]
        base = panel(entries).identity()
        assert base == panel(entries).identity()
        others = [
            panel(entries, combine="votes"),
            panel(entries[::-1]),
            panel([{**entries[0], "right": 2.0}, entries[1]]),
            panel([entries[0], {**entries[1], "weight": 1.0}]),
        ]
        assert all(other.identity() != base for other in others)

    def test_how_a_judge_is_asked_does_not(self) -> None:
        judge: dict[str, Any] = {"name": "judge", "url": "http://a/v1", "model": "m"}
        base = panel([judge]).identity()
        same = {"url": "http://b/v1", "max_requests": 5, "max_tokens": 5, "concurrency": 1, "retries": 0}
        assert panel([{**judge, **same, "timeout_seconds": 1.0, "key_env": "KEY"}]).identity() == base
        for name, value in {"model": "n", "ask": "pairs", "criteria": "x", "answer_tokens": 5}.items():
            assert panel([{**judge, name: value}]).identity() != base

    def test_a_functions_file_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        file = tmp_path / "my_graded_rewards.py"
        file.write_text("def f(completions):\n    return [0.0 for _ in completions]\n")
        ranker = rankers.load("function", function="my_graded_rewards:f")
        first = ranker.identity()
        file.write_text("def f(completions):\n    return [1.0 for _ in completions]\n")
        assert ranker.identity() != first

    def test_a_models_files_count(self, tmp_path: Path) -> None:
        ranker = rankers.load("reward_model", model=str(tmp_path))
        (tmp_path / "config.json").write_text("{}")
        first = ranker.identity()
        (tmp_path / "config.json").write_text("{ }")
        assert ranker.identity() != first
