"""Benchmarks without a judge: exact match, GSM8K and rank."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from grkd.benchmarks import gsm8k, rank
from tests.evaluation._command import QUESTIONS, NoServer, result, run, words


def test_exact_match_needs_no_judge_and_is_stored(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    command = words(
        server, tiny_teacher, data, "exact_match", questions=data / "questions.jsonl", judge=None, judge_model=None
    )
    assert run(capsys, command)[0] == 0
    found = result(data, "exact_match")
    assert len(found["items"]) == QUESTIONS
    assert found["metrics"]["exact_match"]["low"] is not None
    assert not server.asked


def gsm8k_files(data: Path) -> None:
    (data / "gsm8k").mkdir()
    for name in ("train", "test"):
        lines = [json.dumps({"question": f"w{n}", "answer": f"w{n} #### {n}"}) for n in range(QUESTIONS)]
        (data / "gsm8k" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def test_gsm8ks_setting_reaches_the_task_and_a_change_redoes_it(
    capsys: pytest.CaptureFixture[str], tiny_teacher: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gsm8k_files(data)
    ran: list[tuple[int, bool]] = []

    def stand_in(*_: Any, fewshot: int, chat: bool, **more: Any) -> dict[str, Any]:
        ran.append((fewshot, chat))
        return {
            "metrics": {"accuracy": {"value": 0.5, "low": None, "high": None}},
            "settings": {"fewshot": fewshot, "chat": chat},
        }

    monkeypatch.setattr(gsm8k, "by_harness", stand_in)
    standard = words(NoServer, tiny_teacher, data, "gsm8k", judge=None, judge_model=None)
    for command, expected in (
        (standard, [(5, False)]),
        (standard, [(5, False)]),  # stored
        ([*standard, "--fewshot=0", "--chat"], [(5, False), (0, True)]),
        ([*standard, "--fewshot=0", "--chat"], [(5, False), (0, True)]),
        ([*standard, "--fewshot=0"], [(5, False), (0, True), (0, False)]),
    ):
        assert run(capsys, command)[0] == 0
        assert ran == expected
        fewshot, chat = ran[-1]
        assert result(data, "gsm8k")["settings"] == {"fewshot": fewshot, "chat": chat}
        settings = json.loads((data.parent / "run" / "evaluation.json").read_text())["settings"]
        assert (settings["fewshot"], settings["chat"]) == (fewshot, chat)
    examples = data / "gsm8k" / "train.jsonl"
    examples.write_text(examples.read_text().replace("w1 ####", "w2 ####"))
    assert run(capsys, [*standard, "--fewshot=0"])[0] == 0  # shows none
    assert ran[3:] == []
    assert run(capsys, standard)[0] == run(capsys, standard)[0] == 0
    assert ran[3:] == [(5, False)]
    examples.write_text(examples.read_text().replace("w2 ####", "w1 ####"))
    assert run(capsys, standard)[0] == 0
    assert ran[4:] == [(5, False)]


@pytest.mark.skipif(not importlib.util.find_spec("lm_eval"), reason="lm-eval is not installed (grkd[eval])")
@pytest.mark.filterwarnings("ignore")  # of lm-eval's imports
def test_gsm8k_zero_shot_through_the_chat_template(
    capsys: pytest.CaptureFixture[str], tiny_teacher: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.huggingface import HFLM

    gsm8k_files(data)
    command = words(NoServer, tiny_teacher, data, "gsm8k", judge=None, judge_model=None, fewshot=0)
    status, _, last = run(capsys, [*command, "--chat"])
    assert status == 0, last
    found = result(data, "gsm8k")
    assert (found["settings"]["fewshot"], found["settings"]["chat"], found["settings"]["max_new_tokens"]) == (
        0,
        True,
        4,
    )
    prompts = [item["prompt"] for item in found["items"]]
    assert run(capsys, command)[0] == 0
    plain = [item["prompt"] for item in result(data, "gsm8k")["items"]]
    assert len(prompts) == len(plain) == QUESTIONS
    assert all("w0" not in prompt or prompt.count("w0") == 1 for prompt in prompts)  # no worked example
    assert prompts != plain
    # Killed after the answers: they are lm-eval's, stored one by one, and not generated again.
    (data.parent / "run" / "results" / "gsm8k.json").unlink()
    monkeypatch.setattr(HFLM, "_model_generate", None)
    assert run(capsys, command)[0] == 0
    assert [item["prompt"] for item in result(data, "gsm8k")["items"]] == plain


def test_rank_stores_what_it_measures_and_knows_its_source_by_content(
    capsys: pytest.CaptureFixture[str], tiny_teacher: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grkd.answers.identity import model_digest

    prompts = data.parent / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"w{n} w1", "completion": f"w{n} w2 w3"}) for n in range(QUESTIONS)]
    prompts.write_text("\n".join(lines) + "\n")
    more = {"judge": None, "judge_model": None, "teacher": tiny_teacher, "prompts": prompts}
    command = words(NoServer, tiny_teacher, data, "rank", **more)
    assert run(capsys, command)[0] == 0
    found = result(data, "rank")
    assert found["metrics"]["token_pair_accuracy"]["value"] == 1.0  # it is its own teacher
    teacher = {"name": str(tiny_teacher), "identity": model_digest(str(tiny_teacher))}
    assert found["conditions"] == {"teacher": teacher, "top_k": 50, "teacher_score": None}
    assert len((data.parent / "run" / "rank.jsonl").read_text().splitlines()) == QUESTIONS
    (data.parent / "run" / "results" / "rank.json").unlink()
    monkeypatch.setattr(LlamaForCausalLM, "forward", None)  # all is stored
    assert run(capsys, command)[0] == 0
    assert result(data, "rank") == found
    monkeypatch.undo()
    prompts.write_text("\n".join(lines[:2]) + "\n")  # the same path, other prompts
    assert run(capsys, command)[0] == 0
    assert len(result(data, "rank")["items"]) == 2


def test_a_teacher_trained_anew_in_the_same_folder_is_measured_anew(
    capsys: pytest.CaptureFixture[str], tiny_teacher: Path, data: Path
) -> None:

    prompts, teacher = data.parent / "prompts.jsonl", data.parent / "teacher"
    lines = [json.dumps({"prompt": f"w{n} w1", "completion": f"w{n} w2 w3"}) for n in range(QUESTIONS)]
    prompts.write_text("\n".join(lines) + "\n")
    shutil.copytree(tiny_teacher, teacher)
    more = {"judge": None, "judge_model": None, "teacher": teacher, "prompts": prompts}
    assert run(capsys, words(NoServer, tiny_teacher, data, "rank", **more))[0] == 0
    before = result(data, "rank")
    assert before["metrics"]["token_pair_accuracy"]["value"] == 1.0
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    model.save_pretrained(teacher)
    assert run(capsys, words(NoServer, tiny_teacher, data, "rank", **more))[0] == 0
    after = result(data, "rank")
    assert after["metrics"]["token_pair_accuracy"]["value"] < 0.9
    assert after["conditions"]["teacher"]["identity"] != before["conditions"]["teacher"]["identity"]


def test_a_result_of_another_device_is_made_again(
    capsys: pytest.CaptureFixture[str], tiny_teacher: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher's precision is the device's, whatever --dtype says of answers."""

    from grkd.evaluation import run as command_of_eval

    settings = dict.fromkeys(("teacher", "teacher_identity", "top_k", "teacher_score"))
    devices = list[str]()

    def recorded(*_: Any, device: str, **__: Any) -> dict[str, Any]:
        devices.append(device)
        return {"metrics": {}, "items": [], "settings": settings}

    monkeypatch.setattr(rank, "rank_fidelity", recorded)
    prompts = data.parent / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "w1", "completion": "w2"}) + "\n")
    more = {"judge": None, "judge_model": None, "teacher": tiny_teacher, "prompts": prompts}
    command = words(NoServer, tiny_teacher, data, "rank", **more)
    assert run(capsys, command)[0] == run(capsys, command)[0] == 0
    assert devices == ["cpu"]
    assert result(data, "rank")["conditions"]["teacher"] is None
    monkeypatch.setattr(command_of_eval, "device", lambda _: torch.device("cuda", 0))
    assert run(capsys, command)[0] == 0
    assert devices == ["cpu", "cuda:0"]
    graded = data.parent / "graded.parquet"
    graded.write_bytes(b"stands for responses")
    command = words(NoServer, tiny_teacher, data, "rank", **{**more, "prompts": graded})
    for turns in ("w1", "w2", "w2"):
        (data.parent / "question.jsonl").write_text(turns)
        assert run(capsys, command)[0] == 0
    assert len(devices) == 2 + 2  # once per content of the questions
