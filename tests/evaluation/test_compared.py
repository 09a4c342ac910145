"""Two evaluations side by side: paired tests, and what makes them incomparable."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation._command import QUESTIONS, result, run, words


def test_items_give_the_figures_back_and_two_models_are_compared(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    assert run(capsys, words(server, tiny_teacher, data, "mt_bench,arena_hard"))[0] == 0
    for task, value, weight, figure in (
        ("mt_bench", "rating", "ratings", "score"),
        ("arena_hard", "win_percent", "battles", "win_rate"),
    ):
        found = result(data, task)
        items = found["items"]
        assert len({item["id"] for item in items}) == len({item["asked"] for item in items}) == QUESTIONS
        total = sum(item[value] * item[weight] for item in items) / sum(item[weight] for item in items)
        assert total == pytest.approx(found["metrics"][figure]["value"])
        assert found["conditions"]["judge"] == "weak"
    server.reply = lambda body: "Rating: [[9]]" if "<Rate>" in body["messages"][-1]["content"] else "[[A=B]]"
    other = data.parent / "other"
    assert run(capsys, words(server, tiny_teacher, data, "mt_bench,arena_hard", output=other))[0] == 0
    assert run(capsys, ["table", f"student={data.parent}/run", f"grkd={other}"])[0] == 0
    status, out, _ = run(capsys, ["table", f"student={data.parent}/run", f"grkd={other}", "--format=json"])
    assert status == 0
    by_task = {one["task"]: one for one in json.loads(out)["comparisons"]}
    # 9 in both turns against 7 and 5; a tie in every game against a win and a loss.
    assert (by_task["mt_bench"]["difference"], by_task["mt_bench"]["p"]) == (3.0, 2 ** (1 - QUESTIONS))
    assert by_task["mt_bench"]["ahead"] is None  # four questions show nothing
    assert (by_task["arena_hard"]["difference"], by_task["arena_hard"]["ahead"]) == (0.0, None)
    assert {one["items"] for one in by_task.values()} == {QUESTIONS}


def test_the_judges_prompt_from_a_file(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    prompt = data.parent / "judge.txt"
    prompt.write_text("Compare the two.\n")
    assert run(capsys, words(server, tiny_teacher, data, "arena_hard"))[0] == 0
    own = result(data, "arena_hard")
    assert "grkd's own wording was used" in own["note"]
    output = data.parent / "other"
    status, out, _ = run(capsys, words(server, tiny_teacher, data, "arena_hard", judge_prompt=prompt, output=output))
    assert status == 0
    assert {body["messages"][0]["content"] for body in server.asked[2 * QUESTIONS :]} == {"Compare the two."}
    found = json.loads((output / "results" / "arena_hard.json").read_text())
    assert found["comparable"] is False
    digest = hashlib.sha256(prompt.read_bytes()).hexdigest()
    assert f"the judge's system prompt was judge.txt, SHA-256 {digest}" in found["note"]
    assert digest in out.replace("\n", "")
    # Another prompt is another judge: no figures of the two are compared.
    _, out, _ = run(capsys, ["table", f"a={data.parent}/run", f"b={output}"])
    assert "evaluated with a different judge's prompt" in out
    bad = words(server, tiny_teacher, data, "mt_bench", judge_prompt=prompt)
    assert "--judge-prompt is an option of arena_hard" in run(capsys, bad)[2]
    absent = words(server, tiny_teacher, data, "arena_hard", judge_prompt=data / "absent.txt")
    assert "absent.txt: no such file" in run(capsys, absent)[2]


def test_another_template_or_baseline_is_another_comparison(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    """Arena-Hard with another prompt template, then with other answers of the opponent, is never paired with it."""
    assert run(capsys, words(server, tiny_teacher, data, "arena_hard"))[0] == 0
    config, answers = data / "arena_hard" / "judge_config.yaml", data / "arena_hard/model_answer/gpt-4-0314.jsonl"
    whole = config.read_text()
    for path, old, new, words_of_note in (
        (config, "<Compare> ", "<Compare> once more ", "evaluated with a different judge's prompt"),
        (answers, "baseline 0", "baseline zero", "item 'u0' is a different question"),
    ):
        config.write_text(whole)
        path.write_text(path.read_text().replace(old, new))
        output = data.parent / path.name
        assert run(capsys, words(server, tiny_teacher, data, "arena_hard", output=output))[0] == 0
        status, out, _ = run(capsys, ["table", f"a={data.parent}/run", f"b={output}"])
        assert status == 0
        assert words_of_note in out


def test_alpaca_eval_against_other_answers_is_another_comparison(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    pytest.importorskip("alpaca_eval", reason="needs pip install 'grkd[eval]'")
    path = data / "alpaca_eval" / "reference_outputs_gpt4_1106_preview.json.gz"
    for name in ("a", "b"):
        assert run(capsys, words(server, tiny_teacher, data, "alpaca_eval", output=data.parent / name))[0] == 0
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"reference 0", b"reference zero")))
    _, out, _ = run(capsys, ["table", f"a={data.parent}/a", f"b={data.parent}/b"])
    assert "item '0' is a different question" in out


def test_mt_bench_with_other_prompts_or_references_is_another_comparison(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    assert run(capsys, words(server, tiny_teacher, data, "mt_bench"))[0] == 0
    prompts, references = (data / "mt_bench" / name for name in ("judge_prompts.jsonl", "reference_answer/gpt-4.jsonl"))
    whole = prompts.read_text()
    for path, old, new, words_of_note in (
        (prompts, "<Rate> ", "<Rate> once more ", "evaluated with a different judge's prompt"),
        (references, '["r", "s"]', '["r", "t"]', "is a different question"),
    ):
        prompts.write_text(whole)
        path.write_text(path.read_text().replace(old, new))
        output = data.parent / path.name
        assert run(capsys, words(server, tiny_teacher, data, "mt_bench", output=output))[0] == 0
        _, out, _ = run(capsys, ["table", f"a={data.parent}/run", f"b={output}"])
        assert words_of_note in out
