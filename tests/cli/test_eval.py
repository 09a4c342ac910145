"""`grkd eval` from end to end on a tiny student and small benchmarks, with a judge on loopback; kills and mistakes.

Over 300 lines: the servers and data of the small benchmarks stand beside the tests that count their requests.
"""

import gzip
import hashlib
import importlib.util
import json
import shutil
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd import cli
from grkd.reports.evaluations import read_evaluations
from tests._endpoint_server import EndpointServer
from tests._forked import Forked

SECRET = "sk-very-secret-0123456789"
QUESTIONS = 4  # of each benchmark; MT-Bench has two turns of each, Arena-Hard two games


def judged(body: dict[str, Any]) -> str:
    """A judge that rates 7 in the first turn and 5 in the second, and always prefers the answer shown first."""
    text = body["messages"][-1]["content"]
    if "<Rate>" in text:
        return "Rating: [[5]]" if "<Second>" in text else "Rating: [[7]]"
    return "[[A>B]]" if "<Compare>" in text else "m"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A local endpoint, as the judge named "weak"."""
    pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = EndpointServer(judged, models=["weak"])
    yield made
    made.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Small benchmarks of our own, in the layout of the real ones."""
    folder = tmp_path / "data"
    numbers = range(QUESTIONS)
    categories = ["writing", "math", "coding", "stem"]
    bench = [{"question_id": n, "category": categories[n], "turns": [f"w{n} w1", f"w{n} w2"]} for n in numbers]
    rate = "<Rate> {question} {answer}"
    second = "<Rate> <Second> {question_1} {answer_1} {question_2} {answer_2}"
    prompts = [
        {"name": f"single-{kind}v1{turn}", "system_prompt": "Judge.", "prompt_template": text}
        for kind in ("", "math-")
        for turn, text in (("", rate), ("-multi-turn", second))
    ]
    arena = [{"uid": f"u{n}", "prompt": f"w{n} w3"} for n in numbers]
    answers = [
        {"uid": f"u{n}", "messages": [{"role": "assistant", "content": {"answer": f"baseline {n}"}}]} for n in numbers
    ]
    lines = {
        "mt_bench/question.jsonl": bench,
        "mt_bench/reference_answer/gpt-4.jsonl": [
            {"question_id": n, "choices": [{"turns": ["r", "s"]}]} for n in numbers
        ],
        "mt_bench/judge_prompts.jsonl": prompts,
        "arena_hard/question.jsonl": arena,
        "arena_hard/model_answer/gpt-4-0314.jsonl": answers,
        "questions.jsonl": [{"question": f"w{n}", "answer": n} for n in numbers],
    }
    for name, rows in lines.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = "judge_model: strong\nmax_tokens: 64\ntemperature: 0.0\nregex_patterns: ['\\[\\[([AB<>=]+)\\]\\]']\n"
    config += 'prompt_template: "<Compare> {QUESTION} {ANSWER_A} {ANSWER_B}"\n'
    (folder / "arena_hard" / "judge_config.yaml").write_text(config)
    alpaca = [
        {"dataset": "d", "instruction": f"w{n} w4", "output": f"reference {n}", "generator": "gpt4_1106_preview"}
        for n in numbers
    ]
    (folder / "alpaca_eval").mkdir()
    packed = folder / "alpaca_eval" / "reference_outputs_gpt4_1106_preview.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(alpaca).encode()))
    return folder


def words(server: Any, model: Path | str, data: Any, tasks: str | None, **more: Any) -> list[str]:
    """The command's words."""
    given = {
        "tasks": tasks,
        "judge": server.url,
        "judge-model": "weak",
        "data": data,
        "output": more.get("output") or data.parent / "run",
        "answer-tokens": 4,
        "device": "cpu",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return ["eval", str(model), *(f"--{name}={value}" for name, value in given.items() if value is not None)]


def run(capsys: pytest.CaptureFixture[str], command: list[str]) -> tuple[int, str, str]:
    """Exit status, standard output, last line of standard error."""
    status = cli.main(command)
    said = capsys.readouterr()
    return status, said.out, (said.err.strip().splitlines() or [""])[-1]


def result(data: Path, task: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data.parent / "run" / "results" / f"{task}.json").read_text())
    return found


def test_two_benchmarks_their_figures_and_files(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    status, out, _ = run(capsys, words(server, tiny_teacher, data, "mt_bench,arena_hard"))
    assert status == 0
    assert len(server.asked) == 4 * QUESTIONS
    bench, arena = result(data, "mt_bench"), result(data, "arena_hard")
    values = {name: figure["value"] for name, figure in bench["metrics"].items()}
    assert (values["score"], values["turn_1"], values["turn_2"], values["category_math"]) == (6, 7, 5, 6)
    # The judge likes what it sees first, so every question is a win and a loss.
    assert arena["metrics"]["win_rate"]["value"] == 50
    assert arena["winner_turns_with_order"] == QUESTIONS
    for found, judge in ((bench, "gpt-4"), (arena, "strong")):
        assert found["complete"] is True
        assert found["comparable"] is False
        assert f"judged by weak, not by the benchmark's judge {judge}" in found["note"]
        assert found["cost"]["prompt_tokens"] == 7 * 2 * QUESTIONS
        assert found["note"] in out.replace("\n", " ")
    folder = data.parent / "run"
    assert len((folder / "judgements.jsonl").read_text().splitlines()) == 4 * QUESTIONS
    assert len((folder / "answers.jsonl").read_text().splitlines()) == 3 * QUESTIONS
    whole = json.loads((folder / "evaluation.json").read_text())
    assert list(whole["tasks"]) == ["mt_bench", "arena_hard"]
    assert (whole["judge"], whole["settings"]["answer_tokens"]) == ("weak", 4)
    status, out, _ = run(capsys, ["eval", "--from-battles", str(folder / "arena_hard" / "battles.jsonl")])
    assert json.loads(out)["win_rate"] == 50


def test_the_same_command_again_asks_nothing_and_says_the_same(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    command = words(server, tiny_teacher, data, "mt_bench,arena_hard")
    _, first, _ = run(capsys, command)
    before = len(server.asked)
    _, second, _ = run(capsys, command)
    assert len(server.asked) == before
    assert second == first


def test_alpaca_eval_weighted_by_logprobs_where_the_judge_gives_them(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    pytest.importorskip("alpaca_eval", reason="needs pip install 'grkd[eval]'")
    from grkd.benchmarks._alpaca_eval_score import is_switched

    server.logprobs = [("m", -0.2231435513), ("M", -1.6094379124)]  # 0.8 and 0.2
    assert run(capsys, words(server, tiny_teacher, data, "alpaca_eval"))[0] == 0
    found = result(data, "alpaca_eval")
    # The model's share is 0.8 where it is shown first.
    shares = [0.8 if is_switched(f"w{n} w4") else 0.2 for n in range(QUESTIONS)]
    assert found["metrics"]["win_rate"]["value"] == pytest.approx(100 * sum(shares) / QUESTIONS)
    assert found["weighted_by_logprobs"] == QUESTIONS
    server.logprobs = None
    plain = words(server, tiny_teacher, data, "alpaca_eval", output=data.parent / "plain")
    assert run(capsys, plain)[0] == 0
    found = json.loads((data.parent / "plain" / "results" / "alpaca_eval.json").read_text())
    assert found["metrics"]["win_rate"]["value"] == pytest.approx(100 * sum(s > 0.5 for s in shares) / QUESTIONS)
    assert found["weighted_by_logprobs"] == 0
    _, out, _ = run(
        capsys, ["eval", "--task=alpaca_eval", f"--from-annotations={data.parent}/run/alpaca_eval/annotations.json"]
    )
    assert {"win_rate", "length_controlled_win_rate"} <= set(json.loads(out))


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
    assert by_task["mt_bench"]["better"] is None  # four questions show nothing
    assert (by_task["arena_hard"]["difference"], by_task["arena_hard"]["better"]) == (0.0, None)
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
    assert "absent.txt: cannot be read" in run(capsys, absent)[2]


def test_another_template_or_baseline_is_another_comparison(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    """Arena-Hard with another prompt template, then with other answers of the opponent, is never paired with it."""
    assert run(capsys, words(server, tiny_teacher, data, "arena_hard"))[0] == 0
    config, answers = data / "arena_hard" / "judge_config.yaml", data / "arena_hard/model_answer/gpt-4-0314.jsonl"
    whole = config.read_text()
    for path, old, new, words_of_note in (
        (config, "<Compare> ", "<Compare> once more ", "evaluated with a different judge's prompt"),
        (answers, "baseline 0", "baseline zero", "item 'u0' is another question"),
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
    assert "item '0' is another question" in out


def test_mt_bench_with_other_prompts_or_references_is_another_comparison(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    assert run(capsys, words(server, tiny_teacher, data, "mt_bench"))[0] == 0
    prompts, references = (data / "mt_bench" / name for name in ("judge_prompts.jsonl", "reference_answer/gpt-4.jsonl"))
    whole = prompts.read_text()
    for path, old, new, words_of_note in (
        (prompts, "<Rate> ", "<Rate> once more ", "evaluated with a different judge's prompt"),
        (references, '["r", "s"]', '["r", "t"]', "is another question"),
    ):
        prompts.write_text(whole)
        path.write_text(path.read_text().replace(old, new))
        output = data.parent / path.name
        assert run(capsys, words(server, tiny_teacher, data, "mt_bench", output=output))[0] == 0
        _, out, _ = run(capsys, ["table", f"a={data.parent}/run", f"b={output}"])
        assert words_of_note in out


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
    time.sleep(0.15)  # the server finishes what was on its way
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


def test_the_unparsable_is_counted_and_said(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    server.reply = lambda body: "I like it."
    status, out, _ = run(capsys, words(server, tiny_teacher, data, "mt_bench,arena_hard"))
    assert status == 0
    assert result(data, "mt_bench")["metrics"]["score"]["value"] is None
    assert result(data, "mt_bench")["unparsable"] == 2 * QUESTIONS
    assert result(data, "arena_hard")["unparsable"] == 2 * QUESTIONS
    assert f"{2 * QUESTIONS} judgements could not be parsed and are not counted" in out


def test_a_model_behind_a_url(
    capsys: pytest.CaptureFixture[str], server: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.models = ["weak", "student"]
    assert "choose with --model-name" in run(capsys, words(server, server.url, data, "mt_bench"))[2]
    monkeypatch.setenv("STUDENT_KEY", SECRET)
    more = {"model_name": "student", "model_key_env": "STUDENT_KEY"}
    assert (
        run(
            capsys, words(server, server.url, data, "mt_bench,exact_match", questions=data / "questions.jsonl", **more)
        )[0]
        == 0
    )
    by_model = [body["model"] for body in server.asked]
    assert (by_model.count("student"), by_model.count("weak")) == (3 * QUESTIONS, 2 * QUESTIONS)
    assert {key for key, name in zip(server.keys, by_model, strict=True) if name == "student"} == {f"Bearer {SECRET}"}


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


class NoServer:
    url = None


def test_gsm8ks_setting_reaches_the_task_and_a_change_redoes_it(
    capsys: pytest.CaptureFixture[str], tiny_teacher: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grkd.benchmarks import _gsm8k_harness as gsm8k

    gsm8k_files(data)
    ran: list[tuple[int, bool]] = []

    def stand_in(*_: Any, fewshot: int, chat: bool, **more: Any) -> dict[str, Any]:
        ran.append((fewshot, chat))
        return {
            "metrics": {"accuracy": {"value": 0.5, "low": None, "high": None}},
            "settings": {"fewshot": fewshot, "chat": chat},
        }

    monkeypatch.setattr(gsm8k, "run", stand_in)
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
    from grkd.benchmarks import _rank_measured

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
    monkeypatch.setattr(_rank_measured, "response_logits", None)
    assert run(capsys, command)[0] == 0
    assert result(data, "rank") == found
    monkeypatch.undo()
    prompts.write_text("\n".join(lines[:2]) + "\n")  # the same path, other prompts
    assert run(capsys, command)[0] == 0
    assert len(result(data, "rank")["items"]) == 2


def test_a_teacher_trained_anew_in_the_same_folder_is_measured_anew(
    capsys: pytest.CaptureFixture[str], tiny_teacher: Path, data: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

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
    import torch

    from grkd.benchmarks import _rank_task as rank_task
    from grkd.evaluation import run as command_of_eval

    settings = dict.fromkeys(("teacher", "teacher_identity", "top_k", "teacher_score"))
    devices = list[str]()

    def recorded(*_: Any, device: str, **__: Any) -> dict[str, Any]:
        devices.append(device)
        return {"metrics": {}, "items": [], "settings": settings}

    monkeypatch.setattr(rank_task, "run", recorded)
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


def test_why_there_are_no_figures_of_tokens_is_said() -> None:
    from grkd.evaluation._printing import notes

    assert notes({"note": "no token metrics: other tokens"}) == ["no token metrics: other tokens"]


def test_a_missing_length_controlled_figure_is_explained(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    pytest.importorskip("alpaca_eval", reason="needs pip install 'grkd[eval]'")
    status, out, _ = run(capsys, words(server, tiny_teacher, data, "alpaca_eval"))
    assert status == 0
    found = result(data, "alpaca_eval")
    assert found["metrics"]["length_controlled_win_rate"]["value"] is None
    assert f"alpaca_eval: {found['length_controlled_note']}" in out


def test_remarks_hold_the_length_controlled_note_only_where_there_is_one() -> None:
    from grkd.evaluation._printing import notes

    assert notes({"length_controlled_note": "no table", "note": "weak"}) == ["no table", "weak"]
    assert notes({"length_controlled_note": None, "note": None}) == []


def test_the_limit_is_said(capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path) -> None:
    status, out, _ = run(capsys, words(server, tiny_teacher, data, "mt_bench", limit=2))
    assert status == 0
    assert len(server.asked) == 4
    assert "only 2 questions were asked (--limit)" in out


def test_the_key_is_in_no_file_and_on_no_screen(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    monkeypatch.setenv("OPENAI_LOG", "debug")
    server.reply = lambda body: f"Rating: [[7]] {SECRET}"
    cli.main(words(server, tiny_teacher, data, "mt_bench", judge_key_env="JUDGE_KEY"))
    server.always = "refuses key"
    cli.main(words(server, tiny_teacher, data, "arena_hard", judge_key_env="JUDGE_KEY"))
    said = capsys.readouterr()
    assert f"Bearer {SECRET}" in server.keys
    assert "refuses the key in JUDGE_KEY" in said.err
    files = [path for path in (data.parent / "run").rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert all(SECRET.encode() not in path.read_bytes() for path in files)
    assert SECRET not in said.out + said.err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_real_server_as_judge(
    capsys: pytest.CaptureFixture[str],
    tiny_teacher: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`transformers serve` with the tiny model: an OpenAI-compatible server that we did not write."""
    for package in ("openai", "fastapi", "uvicorn", "typer"):
        pytest.importorskip(package, reason=f"transformers serve needs {package}")
    port = free_port()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = ["--host=127.0.0.1", f"--port={port}", "--device=cpu"]
    process = Forked(lambda: _serve([str(tiny_teacher), *place]), tmp_path / "log")
    try:
        _wait_for(port, process)

        class Real:
            url = f"http://127.0.0.1:{port}/v1"

        command = words(Real, tiny_teacher, data, "mt_bench,arena_hard", judge_model=tiny_teacher, judge_tokens=8)
        status, out, last = run(capsys, command)
        assert status == 0, last
        assert "not comparable" in out
        lines = [json.loads(line) for line in (data.parent / "run" / "judgements.jsonl").read_text().splitlines()]
        judgements = [line for line in lines if line["id"] != "check"]
        assert len(judgements) == 4 * QUESTIONS
        assert all(0 < line["completion_tokens"] <= 8 and not line["tokens_estimated"] for line in judgements)
        other = words(Real, tiny_teacher, data, "mt_bench", judge_model="nobody", output=data.parent / "other")
        status, _, refused = run(capsys, other)
        assert status == 2
        assert "nobody" in refused
    finally:
        process.kill()
    assert run(capsys, command)[:2] == (0, out)  # all is stored: the judge is not needed any more


def _serve(words: list[str]) -> None:
    from transformers.cli.transformers import main

    warnings.simplefilter("ignore")
    sys.argv = ["transformers", "serve", *words]
    main()


def _wait_for(port: int, process: Forked) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if not process.is_running():
            pytest.fail(f"transformers serve does not start: {process.log.read_text()[-500:]}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("transformers serve did not open its port")
