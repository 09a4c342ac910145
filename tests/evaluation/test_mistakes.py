"""A user's mistakes: one line, before anything is generated."""

from pathlib import Path
from typing import Any

import pytest

from grkd import cli
from tests.evaluation._command import free_port, run, words


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"judge": "https://api.example.invalid/v1"}, ["no key for https://api.example.invalid/v1", "OPENAI_API_KEY"]),
        ({"judge_key_env": "NOT_SET"}, ["NOT_SET"]),
        ({"judge": f"http://127.0.0.1:{free_port()}/v1"}, ["cannot reach http://127.0.0.1", "check the URL"]),
        ({"judge": "somewhere"}, ["http://127.0.0.1:8000/v1"]),
        ({"judge": None}, ["--judge URL --judge-model NAME"]),
        ({"judge_model": None}, ["--judge URL --judge-model NAME"]),
        ({"tasks": "mt_bensh"}, ["no task 'mt_bensh'", "mt_bench"]),
        ({"tasks": None}, ["--tasks"]),
        ({"data": None}, ["--data DIR"]),
        ({"data": "nowhere"}, ["no folder nowhere"]),
        ({"data": "."}, ["question.jsonl", "no such file", "FastChat"]),
        ({"limit": 0}, ["--limit", "1 or more"]),
        ({"fewshot": -1, "tasks": "gsm8k"}, ["--fewshot", "0 or more"]),
        ({"fewshot": 3}, ["--fewshot is an option of gsm8k"]),
        ({"timeout": 0}, ["--timeout"]),
        ({"limit": 2**31}, ["--limit must be below 2^31"]),
        ({"tasks": "gsm8k", "chat_template_kwargs": '{"a": 1}'}, ["--tasks gsm8k renders its own prompts"]),
        ({"tasks": "exact_match"}, ["--questions FILE"]),
        ({"tasks": "rank"}, ["--prompts"]),
        ({"model": "./absent"}, ["absent"]),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    capsys: pytest.CaptureFixture[str],
    server: Any,
    tiny_teacher: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    parts: list[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    given = {"model": tiny_teacher, "data": data, "tasks": "mt_bench", "output": tmp_path / "run", **changes}
    status, _, line = run(capsys, words(server, **given))
    assert status == 2, line
    assert line.startswith("grkd: error: ")
    assert all(part in line for part in parts), line
    assert not (tmp_path / "run").exists()


def test_a_judge_of_another_name(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    server.always = "unknown model"
    status, _, line = run(capsys, words(server, tiny_teacher, data, "mt_bench", judge_model="strong"))
    assert status == 2
    assert "knows no model 'strong'" in line
    assert "it serves weak" in line
    assert not (data.parent / "run" / "answers.jsonl").exists()  # found before anything was generated


@pytest.mark.parametrize(
    ("option", "task", "content", "parts"),
    [
        ("from-battles", "arena_hard", '{"question_id": "a"}\n', ["file.json, line 1", "model_a"]),
        ("from-battles", "arena_hard", "{oh", ["file.json"]),
        ("from-annotations", "alpaca_eval", '[{"instruction": "a"}]', ["file.json", "1", "output_1"]),
        ("from-annotations", "alpaca_eval", None, ["file.json", "no such file"]),
        ("from-battles", "alpaca_eval", "", ["--task alpaca_eval does not fit --from-battles"]),
    ],
)
def test_malformed_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str, task: str, content: str | None, parts: list[str]
) -> None:
    path = tmp_path / "file.json"
    if content is not None:
        path.write_text(content)
    status, _, line = run(capsys, ["eval", f"--{option}={path}", f"--task={task}"])
    assert status == 2
    assert line.startswith("grkd: error: ")
    assert all(part in line for part in parts), line


def test_prompts_of_rank_are_read_before_another_task_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, prompts = tmp_path / "questions.jsonl", tmp_path / "prompts.jsonl"
    questions.write_text('{"question": "2 + 2?", "answer": "4"}\n')
    prompts.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n')
    given = ["--questions", str(questions), "--prompts", str(prompts), "--output", str(tmp_path / "out")]
    assert cli.main(["eval", str(tmp_path), "--tasks", "exact_match,rank", *given]) == 2
    assert "prompts.jsonl, id 2: no completion; rank needs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
