"""Killed and stopped evaluations, and several commands in one folder."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd import cli
from grkd.reports.evaluations import read_evaluations
from tests._forked import Forked
from tests.evaluation._command import QUESTIONS, result, run, words


def test_a_killed_run_is_taken_up_and_no_judgement_asked_twice(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    server.delay_seconds = 0.1
    command = words(server, tiny_teacher, data, "mt_bench,arena_hard", concurrency=1)
    store = data.parent / "run" / "judgements.jsonl"
    process = Forked(lambda: cli.main(command), data.parent / "log")
    try:
        while not (store.exists() and store.read_bytes().count(b"\n") >= 3):
            assert process.is_running(), process.log.read_text()
            time.sleep(0.01)
    finally:
        process.kill()
    server.settle()
    stored = [json.loads(line)["request"]["messages"] for line in store.read_text().splitlines()]
    asked_before = len(server.asked)
    assert 3 <= len(stored) < 4 * QUESTIONS
    server.delay_seconds = 0.0
    assert run(capsys, command)[0] == 0
    asked_now = [body["messages"] for body in server.asked[asked_before:]]
    assert len(asked_now) == 4 * QUESTIONS - len(stored)
    assert not any(messages in stored for messages in asked_now)
    assert result(data, "mt_bench")["metrics"]["score"]["value"] == 6


def test_a_used_up_budget_stops_cleanly_and_is_no_success(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    command = words(server, tiny_teacher, data, "mt_bench,arena_hard", concurrency=1)
    status, out, last = run(capsys, [*command, "--max-requests=5"])
    assert status == 1
    assert len(server.asked) == 5
    assert "the budget of 5 requests is used up; run the same command again to resume" in out
    assert "the budget of 5 requests is used up" in last
    found = result(data, "mt_bench")
    assert (found["complete"], found["judged"], found["to_judge"]) == (False, 5, 2 * QUESTIONS)
    assert result(data, "arena_hard")["complete"] is False
    assert run(capsys, command)[0] == 0
    assert len(server.asked) == 4 * QUESTIONS


def test_a_stopped_command_leaves_what_an_earlier_one_found(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    assert run(capsys, words(server, tiny_teacher, data, "arena_hard"))[0] == 0
    before = result(data, "arena_hard")
    assert before["complete"]
    command = words(server, tiny_teacher, data, "mt_bench,arena_hard", concurrency=1)
    assert run(capsys, [*command, "--max-requests=1"])[0] == 1
    assert result(data, "arena_hard") == before
    whole = json.loads((data.parent / "run" / "evaluation.json").read_text())["tasks"]
    assert (whole["arena_hard"], whole["mt_bench"]["complete"]) == (before, False)
    # Another model in the same folder: what was found of the first says nothing of it.
    other = data.parent / "other"
    shutil.copytree(tiny_teacher, other)
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.lm_head.weight.neg_()
    model.save_pretrained(other)
    command = words(server, other, data, "mt_bench,arena_hard", concurrency=1)
    assert run(capsys, [*command, "--max-requests=1"])[0] == 1
    assert result(data, "arena_hard")["complete"] is False


def test_tasks_of_several_commands_stand_in_one_summary(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    asked = {"questions": data / "questions.jsonl", "judge": None, "judge_model": None}
    assert run(capsys, words(server, tiny_teacher, data, "exact_match", limit=2, **asked))[0] == 0
    assert run(capsys, words(server, tiny_teacher, data, "mt_bench"))[0] == 0
    found = {one.task: one for one in read_evaluations([str(data.parent / "run")])}
    assert set(found) == {"exact_match", "mt_bench"}
    assert (found["exact_match"].limit, found["mt_bench"].limit) == (2, None)
    assert (found["exact_match"].judge, found["mt_bench"].judge) == (None, "weak")
    # Another model in the same folder: nothing of the first is left in its summary.
    other = data.parent / "other"
    shutil.copytree(tiny_teacher, other)
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.lm_head.weight.neg_()
    model.save_pretrained(other)
    assert run(capsys, words(server, other, data, "exact_match", **asked))[0] == 0
    assert [one.task for one in read_evaluations([str(data.parent / "run")])] == ["exact_match"]


def test_a_trained_student_is_named_by_its_run(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    """All of them lie in RUN/train/<label>-seed<n>/student; "student" is the table's word for the one before."""
    folder = data.parent / "train" / "grkd-seed0" / "student"
    shutil.copytree(tiny_teacher, folder)
    asked = {"questions": data / "questions.jsonl", "judge": None, "judge_model": None}
    assert run(capsys, words(server, folder, data, "exact_match", **asked))[0] == 0
    assert [one.label for one in read_evaluations([str(data.parent / "run")])] == ["grkd-seed0"]
