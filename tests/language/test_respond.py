"""Groups of responses: what is kept, dropped and counted, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grkd.data.groups import choose_diverse
from grkd.errors import UserError
from grkd.files import read_json
from grkd.language import sampling
from grkd.models.generate import Response
from grkd.run.results import collect
from tests.language._responding import W, counts, groups, made


def test_the_most_different_of_the_candidates_are_kept(tiny_recipe: Path) -> None:
    """The same six candidates are sampled whether six or three are kept."""
    _, every = made(tiny_recipe, "responses.n=6", output="six")
    _, some = made(tiny_recipe, "responses.n=3", "responses.candidates=6", output="three")
    six, three = groups(every), groups(some)
    assert six.keys() == three.keys()
    assert len(six) == 24
    for name, records in six.items():
        texts = [record["response"] for record in records]
        assert len({text.strip() for text in texts}) == len(texts) <= 6
        assert [record["response"] for record in three[name]] == [texts[index] for index in choose_diverse(texts, 3)]
        assert [record["id"] for record in three[name]] == [f"{name}#{index}" for index in range(3)]
        assert [record["index"] for record in three[name]] == [0, 1, 2]
        assert {record["source"] for record in three[name]} == {"teacher"}
    assert counts(some)["generated_tokens"] == counts(every)["generated_tokens"]
    assert counts(some)["response_tokens"] == sum(len(r["response_ids"]) for each in three.values() for r in each)


def test_mixture_keeps_every_quota(tiny_recipe: Path) -> None:
    path = tiny_recipe.parent / "pairs.jsonl"
    lines = [{"prompt": f"w{n}", "responses": [f"w{n + 1} w3", "w5"], "teacher_scores": [n, -1]} for n in range(12)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [f"data.train={path}", "responses.source=mixture", "responses.n=4", "responses.candidates=9"]
    _, run = made(tiny_recipe, *words, "responses.mixture={teacher: 1, student: 2, data: 1}", "responses.temperature=2")
    assert len(groups(run)) == 12
    for records in groups(run).values():
        assert [record["source"] for record in records] == ["teacher", "student", "student", "data"]
        *sampled, given = records
        assert {record["data_score"] for record in sampled} == {None}
        number = int(given["prompt"].removeprefix("w"))
        assert (given["response"], given["data_score"]) in ((f"w{number + 1} w3", number), ("w5", -1))
        assert given["response_ids"][-1] == 3
    found = counts(run)
    assert [found[f"responses_from_{name}"] for name in ("teacher", "student", "data")] == [12, 24, 12]
    assert found["generated_tokens"] <= 12 * (2 + 5) * 6  # shares of 9 candidates: 2, 5 (its remainder is largest), 2


def scripted(monkeypatch: pytest.MonkeyPatch, *responses: list[int]) -> None:
    """Every prompt gets these responses."""

    def generate(_: object, prompts: list[list[int]], **options: Any) -> Iterator[list[Response]]:
        yield [
            Response(index, ids, finished=ids[-1:] == [3])
            for index in range(len(prompts))
            for ids in [responses[index % len(responses)]]
        ]

    monkeypatch.setattr(sampling, "generate_responses", generate)


def test_duplicates_and_empty_ones_are_dropped_and_counted(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each prompt's five: w1, w1 cut short, nothing, w2 w2, w1 again. Two are left."""
    scripted(monkeypatch, [W + 1, 3], [W + 1], [3], [W + 2, W + 2, 3], [W + 1, 3])
    recipe, run = made(tiny_recipe, "responses.n=5")
    for records in groups(run).values():
        assert [record["response"] for record in records] == ["w1", "w2 w2"]
        assert all(record["finished"] for record in records)
    found = counts(run)
    assert {name: found[name] for name in ("duplicates_dropped", "empty_dropped", "groups_dropped")} == {
        "duplicates_dropped": 2 * 24,
        "empty_dropped": 24,
        "groups_dropped": 0,
    }
    assert (found["groups_train"], found["groups_heldout"], found["responses_from_teacher"]) == (18, 6, 48)
    assert (found["responses_cut"], found["response_tokens"], found["generated_tokens"]) == (0, 24 * 5, 24 * 9)
    said = capsys.readouterr().err.replace("\n", " ")
    assert "24 prompts with 48 responses" in said
    assert "48 duplicates and 24 empty dropped" in said
    collect(recipe, run.path, {})
    in_results = read_json(run.path / "results.json")["counts"]
    assert in_results["duplicates_dropped"] == 48
    assert in_results["prompts_train"] == 18


def test_single_responses_are_all_kept(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An immediate stop token is a response, where it is the only one."""
    scripted(monkeypatch, [3])
    _, run = made(tiny_recipe)
    assert [record["response_ids"] for each in groups(run).values() for record in each] == [[3]] * 24
    assert counts(run)["empty_dropped"] == 0


def test_cut_responses_are_said(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch, [W] * 6, [W + 1, 3])
    _, run = made(tiny_recipe, "responses.n=2")
    assert counts(run)["responses_cut"] == 24
    assert [record["finished"] for record in next(iter(groups(run).values()))] == [False, True]
    assert "24 of 48 responses were truncated at max_new_tokens = 6" in capsys.readouterr().err.replace("\n", " ")


def test_groups_without_two_different_responses_are_dropped(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts whose last word has an even id get one text only; with all of them so, the run says what to change."""

    def generate(_: object, prompts: list[list[int]], **options: Any) -> Iterator[list[Response]]:
        word = {index: W + (index % 2 if prompt[-4] % 2 else 0) for index, prompt in enumerate(prompts)}
        yield [Response(index, [word[index], 3], finished=True) for index in range(len(prompts))]

    monkeypatch.setattr(sampling, "generate_responses", generate)
    _, run = made(tiny_recipe, "responses.n=2")
    ids = {record["prompt_ids"][-4] % 2 for each in groups(run).values() for record in each}
    assert ids == {1}  # <turn> user ... w<n> <end> <turn> assistant
    found = counts(run)
    assert found["groups_dropped"] + found["groups_train"] + found["groups_heldout"] == 24
    assert found["groups_dropped"] == found["duplicates_dropped"] > 0
    scripted(monkeypatch, [W, 3])
    with pytest.raises(UserError, match="no train prompt has 2 different responses"):
        made(tiny_recipe, "responses.n=2", output="none")


def test_data_with_groups_of_its_own(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first n different ones; with candidates, the most different of the first of them."""
    path = tiny_recipe.parent / "groups.jsonl"
    responses = ["w1 w1 w1", "w1 w1 w2", "w1 w1 w1", "w9 w8", "w1 w2 w1"]
    lines = [{"prompt": f"w{n}", "responses": responses, "teacher_scores": [5, 4, 5, 2, 1]} for n in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [f"data.train={path}", "responses.source=data"]

    def kept(*more: str) -> list[tuple[str, float]]:
        _, run = made(tiny_recipe, *words, *more)
        found = {tuple((r["response"], r["data_score"]) for r in each) for each in groups(run).values()}
        assert len(found) == 1
        assert "generated_tokens" not in counts(run)
        return list(found.pop())

    assert kept("responses.n=2") == [("w1 w1 w1", 5), ("w1 w1 w2", 4)]
    assert kept("responses.n=3") == [("w1 w1 w1", 5), ("w1 w1 w2", 4), ("w9 w8", 2)]
    assert kept("responses.n=9") == [("w1 w1 w1", 5), ("w1 w1 w2", 4), ("w9 w8", 2), ("w1 w2 w1", 1)]
    assert kept("responses.n=2", "responses.candidates=3") == [("w1 w1 w1", 5), ("w9 w8", 2)]
    assert "responses.n = 1" not in capsys.readouterr().err
    assert kept() == [("w1 w1 w1", 5)]
    assert "up to 5 responses per prompt; responses.n = 1 takes the first of them" in " ".join(
        capsys.readouterr().err.split()
    )
    assert kept("responses.n=2", "responses.max_new_tokens=2") == [("w1 w1", 5), ("w9 w8", 2)]


def test_pairs_of_chosen_and_rejected(tiny_recipe: Path) -> None:
    path = tiny_recipe.parent / "pairs.jsonl"
    lines = [
        {"prompt": f"w{n}", "chosen": "w1", "rejected": [{"role": "assistant", "content": "w2"}]} for n in range(4)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, run = made(tiny_recipe, f"data.train={path}", "responses.source=data", "responses.n=2")
    for records in groups(run).values():
        assert [(record["response"], record["data_score"]) for record in records] == [("w1", 1), ("w2", 0)]


@pytest.mark.parametrize(
    ("words", "line", "parts"),
    [
        (["responses.n=2"], {"completion": "w2"}, ["one response", "responses.n is 2"]),
        (["responses.n=2"], {"responses": ["w2"]}, ["one response", "responses.n is 2"]),
        (["responses.n=2"], {"responses": ["w2", "w2"]}, ["line 1", "responses are all the same", "6 records"]),
        (["responses.n=2"], {}, ["no completion or responses"]),
        (
            ["responses.n=2", "responses.source=mixture", "responses.mixture={data: 1, teacher: 1}"],
            {},
            ["no completion or responses", "mixture"],
        ),
        (
            ["responses.n=2"],
            {"responses": ["w1", "w2"], "teacher_scores": [1]},
            ["bad.jsonl, line 1", "scores"],
        ),
    ],
)
def test_data_that_gives_no_group(tiny_recipe: Path, words: list[str], line: dict[str, Any], parts: list[str]) -> None:
    path = tiny_recipe.parent / "bad.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"w{n}", **line}) + "\n" for n in range(6)))
    with pytest.raises(UserError) as caught:
        made(tiny_recipe, f"data.train={path}", "responses.source=data", *words)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["responses.source=mixture"], ["responses.mixture", "say how many"]),
        (["responses.mixture={teacher: 1}"], ["responses.mixture", "source is teacher"]),
        (["responses.source=mixture", "responses.n=4", "responses.mixture={teacher: 1}"], ["add up to 1", "n is 4"]),
        (["responses.n=4", "responses.candidates=3"], ["responses.candidates", "n (4) or more, got 3"]),
        (["responses.candidates=3"], ["responses.candidates", "responses.n"]),
        (["responses.n=2", "responses.temperature=0"], ["responses.temperature", "the same"]),
        (
            [
                "responses.source=mixture",
                "responses.n=3",
                "responses.mixture={student: 2, data: 1}",
                "responses.temperature=0",
            ],
            ["responses.temperature", "all 2"],
        ),
    ],
)
def test_settings_that_make_no_group(tiny_recipe: Path, words: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        made(tiny_recipe, *words)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
    assert not (tiny_recipe.parent / "run").exists()
