"""Benchmarks with a judge, from end to end: metrics, files, notes, and a model behind a URL."""

import json
from pathlib import Path
from typing import Any

import pytest

from grkd import cli
from grkd.evaluation.printing import notes
from tests.evaluation._command import QUESTIONS, SECRET, result, run, words


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
    server.logprobs = [("m", -0.2231435513), ("M", -1.6094379124)]  # 0.8 and 0.2
    assert run(capsys, words(server, tiny_teacher, data, "alpaca_eval"))[0] == 0
    found = result(data, "alpaca_eval")
    # The model's share is 0.8 where it is shown first, before the second output's identifier.
    texts = [text for body in server.asked if "Model Outputs" in (text := body["messages"][-1]["content"])]
    shares = [0.2 if "reference" in text[: text.index('"M",')] else 0.8 for text in texts]
    assert len(shares) == QUESTIONS
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


def test_a_missing_length_controlled_figure_is_explained(
    capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path
) -> None:
    pytest.importorskip("alpaca_eval", reason="needs pip install 'grkd[eval]'")
    status, out, _ = run(capsys, words(server, tiny_teacher, data, "alpaca_eval"))
    assert status == 0
    found = result(data, "alpaca_eval")
    assert found["metrics"]["length_controlled_win_rate"]["value"] is None
    assert f"alpaca_eval: {found['length_controlled_note']}" in out


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


def test_the_limit_is_said(capsys: pytest.CaptureFixture[str], server: Any, tiny_teacher: Path, data: Path) -> None:
    status, out, _ = run(capsys, words(server, tiny_teacher, data, "mt_bench", limit=2))
    assert status == 0
    assert len(server.asked) == 4
    assert "only 2 questions were asked (--limit)" in out


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


def test_only_what_there_is_to_note_is_noted() -> None:
    assert notes({"length_controlled_note": "no table", "note": "weak"}) == ["no table", "weak"]
    assert notes({"length_controlled_note": None, "note": None}) == []
