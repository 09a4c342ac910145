"""MT-Bench: requests and ratings spelt out by hand on a small benchmark, and the real files' shape."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from grkd.benchmarks import _mt_bench_judge as mt_bench
from grkd.benchmarks._mt_bench_judge import MTBench, judge_request, rating, read, score
from grkd.errors import UserError

_DATA = Path(os.environ.get("GRKD_DATA", Path(__file__).parents[3] / "shared" / "data")) / "llm"
real = pytest.mark.skipif(not (_DATA / "mt_bench").is_dir(), reason=f"no MT-Bench files in {_DATA}; set GRKD_DATA")

QUESTIONS: list[dict[str, Any]] = [
    {"question_id": 1, "category": "writing", "turns": ["Write {it}.", "Shorter."]},
    {"question_id": 2, "category": "math", "turns": ["1+1?", "And 2+2?"]},
    {"question_id": 3, "category": "extraction", "turns": ["Find it.", "Again."]},
]
REFERENCES: list[dict[str, Any]] = [{"question_id": 2, "choices": [{"turns": ["two", "four"]}]}]
PROMPTS = [
    {"name": "single-v1", "system_prompt": "s1", "prompt_template": "Q {question} A {answer}"},
    {
        "name": "single-v1-multi-turn",
        "system_prompt": "s2",
        "prompt_template": "{question_1}|{answer_1}|{question_2}|{answer_2}",
    },
    {"name": "single-math-v1", "system_prompt": "s3", "prompt_template": "Q {question} R {ref_answer_1} A {answer}"},
    {
        "name": "single-math-v1-multi-turn",
        "system_prompt": "s4",
        "prompt_template": "{question_1}|{ref_answer_1}|{question_2}|{ref_answer_2}|{answer_1}|{answer_2}",
    },
]


def write(folder: Path, **changes: list[dict[str, Any]]) -> Path:
    """A data folder with a small MT-Bench in it."""
    bench = folder / "mt_bench"
    (bench / "reference_answer").mkdir(parents=True, exist_ok=True)
    files = {"question": QUESTIONS, "reference_answer/gpt-4": REFERENCES, "judge_prompts": PROMPTS, **changes}
    for name, rows in files.items():
        (bench / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def small(tmp_path: Path) -> MTBench:
    return read(write(tmp_path))


def asked(benchmark: MTBench, number: int, turn: int) -> list[str]:
    request = judge_request(benchmark, benchmark.items[number], ["{answer} one", "{question_1} two"], turn)
    assert request.temperature == 0
    return [message["content"] for message in request.messages]


def test_requests_as_written_by_hand(small: MTBench) -> None:
    assert asked(small, 0, 1) == ["s1", "Q Write {it}. A {answer} one"]  # braces in a text stay
    assert asked(small, 0, 2) == ["s2", "Write {it}.|{answer} one|Shorter.|{question_1} two"]
    assert asked(small, 1, 1) == ["s3", "Q 1+1? R two A {answer} one"]
    assert asked(small, 1, 2) == ["s4", "1+1?|two|And 2+2?|four|{answer} one|{question_1} two"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("[[7.5]]", 7.5),
        ("[[3]] or rather [[9]]", 3.0),
        ("Rating: [[rating]]", None),
        ("Rating: [7]", None),
        ("Rating: 7", None),
        ("[[11]]", None),
        ("[[0]]", None),
        ("[[-3]]", None),
        ("[[7/10]]", None),
        ("", None),
    ],
)
def test_ratings(text: str, value: float | None) -> None:
    assert rating(text) == value


def test_means_by_hand_with_the_unparsable_counted_and_left_out(small: MTBench) -> None:
    said = {
        "mt_bench/1/turn1": "[[8]]",
        "mt_bench/1/turn2": "[[6]]",
        "mt_bench/2/turn1": "no idea",
        "mt_bench/2/turn2": "[[1]]",
        "mt_bench/3/turn1": "[[4]]",
    }
    found = score(small, said)
    assert found["score"] == pytest.approx((8 + 6 + 1 + 4) / 4)
    assert (found["turn_1"], found["turn_2"]) == (6.0, 3.5)
    assert found["categories"] == {"writing": 7.0, "math": 1.0, "extraction": 4.0}
    assert (found["n"], found["unparsable"], found["missing"]) == (4, 1, 1)
    assert found["low"] < found["score"] < found["high"]
    assert [(item["id"], item["category"], item["rating"], item["ratings"]) for item in found["items"]] == [
        ("1", "writing", 7.0, 2),
        ("2", "math", 1.0, 1),
        ("3", "extraction", 4.0, 1),
    ]


def test_interval_draws_whole_questions(small: MTBench) -> None:
    """Both turns alike within a question: with questions drawn whole, only these ten means can be the bounds."""
    said = {
        f"mt_bench/{name}/turn{turn}": f"[[{value}]]" for name, value in ((1, 2), (2, 5), (3, 8)) for turn in (1, 2)
    }
    found = score(small, said)
    means = {(a + b + c) / 3 for a in (2, 5, 8) for b in (2, 5, 8) for c in (2, 5, 8)}
    assert all(any(math.isclose(found[bound], mean) for mean in means) for bound in ("low", "high"))


def test_nothing_judged_is_no_score(small: MTBench) -> None:
    found = score(small, {})
    assert (found["score"], found["low"], found["turn_1"], found["missing"]) == (None, None, None, 6)
    assert [(item["rating"], item["ratings"]) for item in found["items"]] == [(None, 0)] * 3


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"judge_prompts": PROMPTS[:3]}, ["judge_prompts.jsonl", "single-math-v1-multi-turn"]),
        ({"reference_answer/gpt-4": []}, ["gpt-4.jsonl", "no answer to question 2"]),
        ({"question": [{"question_id": 1}]}, ["question.jsonl, line 1", "category"]),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        read(write(tmp_path, **changes))
    assert all(part in str(refused.value) for part in parts)


def test_an_absent_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; get mt_bench/ .* from FastChat"):
        read(tmp_path)


def test_a_prompt_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    other = [{**PROMPTS[0], "prompt_template": "{question} {grade}"}, *PROMPTS[1:]]
    benchmark = read(write(tmp_path, judge_prompts=other))
    with pytest.raises(UserError, match=r"single-v1.*\{grade\}"):
        judge_request(benchmark, benchmark.items[0], ["a"], 1)


def test_a_limit_is_spread_over_the_benchmark(tmp_path: Path) -> None:
    rows = [{"question_id": n, "category": f"c{n // 10}", "turns": ["a", "b"]} for n in range(80)]
    folder = write(tmp_path, question=rows)
    assert [item.category for item in read(folder, limit=8).items] == [f"c{n}" for n in range(8)]
    assert len(read(folder, limit=100).items) == 80
    assert len(read(folder, limit=3).items) == 3


@real
def test_the_real_benchmark() -> None:
    benchmark = read(_DATA)
    assert len(benchmark.items) == 80
    with_reference = [item for item in benchmark.items if item.references]
    assert {item.category for item in with_reference} == {"math", "reasoning", "coding"}
    assert len(with_reference) == 30
    for item in benchmark.items:
        assert item.question.temperature == {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}.get(
            item.category, 0.0
        )
        for turn in (1, 2):
            request = judge_request(benchmark, item, ["FIRST ANSWER", "SECOND ANSWER"], turn)
            text = request.messages[1]["content"]
            assert item.question.turns[turn - 1] in text
            assert ("FIRST ANSWER" in text, "SECOND ANSWER" in text) == (True, turn == 2)
            assert all((reference in text) for reference in (item.references or ())[:turn])
            assert "[[5]]" in request.messages[0]["content"] + text  # the form that `rating` reads
    assert mt_bench.rating("Rating: [[5]]") == 5
