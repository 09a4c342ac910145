"""Answers are kept as they come: what a kill leaves is used, nothing is asked twice, the texts are the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grkd.answers.kept import kept_answers
from grkd.errors import UserError
from grkd.language import respond as module
from grkd.language import sampling
from grkd.models.generate import Response
from tests.language._responding import counts, groups, made

PROMPTS = [[1], [2], [1], [3], [4], [4]]


class Sampling:
    """Lists of two answers; an answer is its prompt and the number of equal prompts before it."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after, self.asked = stop_after, []

    def __call__(self, prompts: list[list[int]]) -> Iterator[list[Response]]:
        self.asked = prompts
        answers = [
            Response(at, [*prompt, prompts[:at].count(prompt)], finished=at % 2 == 0)
            for at, prompt in enumerate(prompts)
        ]
        for number, start in enumerate(range(0, len(answers), 2)):
            if number == self.stop_after:
                raise KeyboardInterrupt
            yield answers[start : start + 2]


def collected(path: Path, sample: Any, prompts: list[list[int]] = PROMPTS) -> dict[int, list[int]]:
    found = {}
    for answers in kept_answers(path, prompts, sample):
        found |= {response.index: response.response_ids for response in answers.responses}
    return found


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_what_a_kill_leaves_is_used(tmp_path: Path, stop_after: int) -> None:
    path = tmp_path / "answers.jsonl"
    whole = collected(tmp_path / "whole.jsonl", Sampling())
    assert whole == {0: [1, 0], 1: [2, 0], 2: [1, 1], 3: [3, 0], 4: [4, 0], 5: [4, 1]}
    with pytest.raises(KeyboardInterrupt):
        collected(path, Sampling(stop_after))
    again = Sampling()
    assert collected(path, again) == whole
    # [1] is at 0 and 2: it is kept only when both are there.
    assert again.asked == {0: PROMPTS, 1: [[1], [1], [3], [4], [4]], 2: [[4], [4]]}[stop_after]
    third = Sampling()
    assert collected(path, third) == whole
    assert third.asked == []


def test_a_line_cut_by_the_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        collected(path, Sampling(2))
    path.write_bytes(path.read_bytes()[:-5])
    assert collected(path, Sampling()) == collected(tmp_path / "whole.jsonl", Sampling())


@pytest.mark.parametrize(
    "line",
    [
        '{"key": "0"}',
        '{"key": "0", "milliseconds": 1, "responses": [[99, [1], true]]}',
        '{"key": "0", "milliseconds": 1, "responses": [1]}',
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(UserError, match=r"answers.jsonl: damaged; delete it"):
        collected(path, Sampling())


def test_respond_loses_one_batch_at_most(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed long before the first shard is whole: the second command asks for the rest alone."""
    words = ("responses.n=2", "responses.shard_size=64", "responses.batch_size=6")
    _, whole = made(tiny_recipe, *words, output="whole")
    real, asked = sampling.generate_responses, []

    def killed(model: Any, prompts: Any, **options: Any) -> Iterator[list[Response]]:
        asked.append(len(prompts))
        for number, batch in enumerate(real(model, prompts, **options)):
            if len(asked) == 1 and number == 4:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(sampling, "generate_responses", killed)
    with pytest.raises(KeyboardInterrupt):
        made(tiny_recipe, *words)
    folder = tiny_recipe.parent / "run" / "respond.partial"
    assert not list(folder.glob("shard-*"))
    capsys.readouterr()
    _, run = made(tiny_recipe, *words)
    assert asked[0] == 48
    assert 48 - 24 <= asked[1] < 48 - 12
    said = capsys.readouterr().err
    assert "respond: resuming" in said
    assert f"{48 - asked[1]} answers kept" in said
    assert groups(run) == groups(whole)
    assert counts(run)["generated_tokens"] == counts(whole)["generated_tokens"]
    assert not list((run.path / "respond").glob("*.jsonl"))


def test_nothing_kept_is_not_called_going_on(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(module, "_make_shards", killed)
        with pytest.raises(KeyboardInterrupt):
            made(tiny_recipe)
    capsys.readouterr()
    made(tiny_recipe)
    assert "resuming" not in capsys.readouterr().err
