"""Functions with the signature of TRL's reward functions, called as TRL calls them."""

import asyncio
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trl.rewards import accuracy_reward, think_format_reward

from grkd import rankers
from grkd.errors import UserError
from grkd.files import file_digest
from grkd.rankers import Resources

CHAT = [[{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]]


def opened(function: Any) -> rankers.Ranker:
    ranker = rankers.load("function", function=function)
    ranker.open(Resources())
    return ranker


def test_gets_what_trl_gives() -> None:
    given: list[dict[str, Any]] = []

    def reward(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float | None]:
        given.append({"prompts": prompts, "completions": completions, **kwargs})
        return [1.0, None, 3.0]

    columns = {"level": ["easy", "hard"], "response_ids": [[[1], [2, 2]], [[3]]], "prompt_ids": [[9], [8]]}
    found = opened(reward)(["one", "two"], [["a", "b"], ["c"]], columns)
    np.testing.assert_array_equal(found, [[1.0, math.nan], [3.0, math.nan]])
    (called,) = given
    assert called["prompts"] == ["one", "one", "two"]
    assert called["completions"] == ["a", "b", "c"]
    assert called["level"] == ["easy", "easy", "hard"]
    assert called["completion_ids"] == [[1], [2, 2], [3]]
    assert {"trainer_state", "log_extra", "log_metric"} <= set(called)


def test_messages_become_conversational_completions() -> None:
    """TRL's own functions read completion[0]["content"]."""
    texts = [["<think>a</think> b", "b"], ["<think>c</think> d"]]
    completions = [[{"role": "assistant", "content": text}] for group in texts for text in group]
    expected = think_format_reward(completions)
    assert [*opened(think_format_reward)(CHAT, texts, {}).flatten()[:3]] == expected == [1.0, 0.0, 1.0]


def test_trls_accuracy_reward() -> None:
    texts = [[r"\boxed{\frac{1}{3}}", r"\boxed{2}"], [r"\boxed{2}"]]
    found = opened(accuracy_reward)(CHAT, texts, {"solution": [r"$\frac{1}{3}$", "nothing to parse"]})
    np.testing.assert_array_equal(found, [[1.0, 0.0], [math.nan, math.nan]])


def test_only_what_it_names_without_keywords() -> None:
    def reward(completions: list[str], level: list[int]) -> list[float]:
        return [len(text) + number for text, number in zip(completions, level, strict=True)]

    found = opened(reward)(["p"], [["a", "bcd"]], {"level": [10], "other": ["x"]})
    np.testing.assert_array_equal(found, [[11.0, 13.0]])


def test_coroutines_and_metrics() -> None:
    async def reward(completions: list[str], log_metric: Any, **kwargs: Any) -> list[float]:
        for text in completions:
            log_metric("length", len(text))
        return [0.0] * len(completions)

    async def in_a_notebook() -> None:  # whose own loop runs
        ranker(["p"], [["a", "bcd"]])

    ranker = opened(reward)
    asyncio.run(in_a_notebook())
    assert {name: tally.value for name, tally in ranker.tallies.items()} == {"length": 2.0}


def test_by_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "def short(completions, **kwargs):\n    return [-len(c) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(opened("my_rewards:short")(["p"], [["ab", "c"]]), [[-2.0, -1.0]])
    for path, said in [("my_rewards:long", "has no 'long'"), ("no_such_module:f", "no module 'no_such_module'")]:
        with pytest.raises(UserError, match=said):
            opened(path)
    with pytest.raises(UserError, match=r"must be package.module:function"):
        rankers.load("function", function="my_rewards")


def test_its_mistakes_name_it() -> None:
    def broken(completions: list[str], **kwargs: Any) -> list[float]:
        raise KeyError("solution")

    with pytest.raises(UserError, match="broken failed on 2 responses"):
        opened(broken)(["p"], [["a", "b"]])
    with pytest.raises(UserError, match="gave 1 scores for 2 responses"):
        opened(lambda completions: [1.0])(["p"], [["a", "b"]])
    with pytest.raises(UserError, match="the score of a response is inf"):
        opened(lambda completions: [1.0, math.inf])(["p"], [["a", "b"]])


def test_what_is_known_of_each_response_is_not_that_of_its_group() -> None:
    """A list of the group's values would be true for every response that was cut."""

    def reward(completions: list[str], finished: list[bool], **columns: Any) -> list[float]:
        assert columns["teacher_log_prob:a"] == [-1.0, -2.0, -3.0]
        return [1.0 if ended else 0.0 for ended in finished]

    columns: dict[str, Any] = {"finished": [[True, False], [False]], "teacher_log_prob:a": [[-1.0, -2.0], [-3.0]]}
    found = opened(reward)(["p", "q"], [["a", "b"], ["c"]], columns)
    np.testing.assert_array_equal(found, [[1.0, 0.0], [0.0, math.nan]])


def test_objects_and_partials_are_known_by_their_code_too() -> None:
    """Else an edited reward would be taken for the one whose scores are stored."""

    class Reward:
        def __call__(self, completions: list[str], scale: float = 1.0, **columns: Any) -> list[float]:
            return [scale] * len(completions)

    for function in (Reward(), partial(Reward().__call__, scale=2.0), partial(Reward(), scale=2.0)):
        assert opened(function).identity()["file"] == file_digest(Path(__file__))
    assert opened(len).identity()["file"] is None


def test_the_arguments_of_a_partial_are_part_of_what_it_is() -> None:
    def reward(completions: list[str], scale: float = 1.0, by: Any = None) -> list[float]:
        return [scale] * len(completions)

    one, same, other = (opened(partial(reward, scale=scale, by=object())).identity() for scale in (2.0, 2.0, 3.0))
    assert one == same  # an object's address says nothing
    assert one != other
    assert one["function"] == reward.__qualname__
    assert "arguments" not in opened(reward).identity()
