"""Runs from end to end on a tiny model: what they leave, how they go on after a kill, what they do not repeat.

Over 300 lines: one command, with everything that may become of it.
"""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from sklearn.metrics import ndcg_score
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from grkd import cli, recipe
from grkd.language import respond as language_responses
from grkd.language import train as language_training
from grkd.pipeline import run as whole_run
from grkd.reports import markdown_table, read_run
from grkd.training import language_rows


def results(folder: Path) -> dict[tuple[str, str], float]:
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return {(row["method"], row["metric"]): row["value"] for row in rows}


COMPLETE: dict[tuple[str, ...], dict[tuple[str, str], float]] = {}


def uninterrupted(recipe: Path, folder: Path, *words: str) -> dict[tuple[str, str], float]:
    """Results of a run that nothing stops; made once for all tests that ask for it."""
    if words not in COMPLETE:
        assert cli.main(["run", str(recipe), *words, f"output={folder}"]) == 0
        COMPLETE[words] = results(folder)
    return COMPLETE[words]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent != folder and path.name != "samples.json"
    }


@pytest.mark.figures
def test_language_run(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(tiny_recipe)]) == 0
    folder = tiny_recipe.parent / "run"
    found = results(folder)
    for method in ("kd", "grkd"):
        # What is minimised; the order of 36 held-out tokens of random weights is chance.
        for metric in ("soft_cross_entropy_nats", "forward_kl_nats", "reverse_kl_nats"):
            assert found[method, metric] < found["before", metric]
        assert 0 < found[method, "kendall_tau"] < 1
    written = json.loads((folder / "results.json").read_text())["costs"]
    assert list(written) == ["teacher", "before", "kd", "grkd"]
    assert written["teacher"]["parameters"] > written["kd"]["parameters"] > 0
    assert all(cost["tokens_per_second"] > 0 and cost["batch_size"] == 2 for cost in written.values())
    (first, _) = json.loads((folder / "evaluate" / "samples.json").read_text())
    assert [turn["role"] for turn in first["messages"]] == ["user"]
    assert first["messages"][0]["content"] == first["prompt"]
    assert set(first["cut"]) <= set(first["answers"])

    student = folder / "train" / "grkd-seed0" / "student"
    model = AutoModelForCausalLM.from_pretrained(student)
    assert model.config.num_hidden_layers == 2
    assert "grkd" in (student / "README.md").read_text()
    tokenizer = AutoTokenizer.from_pretrained(student)
    answer = pipeline("text-generation", model=str(student), device="cpu")(
        [{"role": "user", "content": "w1 w2"}], max_new_tokens=3, do_sample=False
    )
    assert answer[0]["generated_text"][-1]["role"] == "assistant"
    assert tokenizer.chat_template

    page = (folder / "report.html").read_text()
    assert "kd" in page
    assert "<svg" in page
    assert "report:" in capsys.readouterr().err
    before = snapshot(folder)
    assert cli.main(["run", str(tiny_recipe)]) == 0
    assert snapshot(folder) == before, "a finished stage was rebuilt"
    assert cli.main(["report", str(folder)]) == 0


def test_saved_student_is_the_trained_one(tiny_recipe: Path) -> None:
    """The metric in results.json can be had again from the student's folder alone."""
    assert cli.main(["run", str(tiny_recipe), "methods=[kd]"]) == 0
    folder = tiny_recipe.parent / "run"
    student = AutoModelForCausalLM.from_pretrained(folder / "train" / "kd-seed0" / "student").eval()
    teacher = AutoModelForCausalLM.from_pretrained(_teacher(tiny_recipe)).eval()
    total, tokens = 0.0, 0
    reverse_kl: list[float] = []
    ndcg: list[float] = []
    for path in sorted((folder / "respond").glob("shard-*.parquet")):
        for record in pq.read_table(path).to_pylist():
            if record["split"] != "heldout":
                continue
            ids = torch.tensor([record["prompt_ids"] + record["response_ids"]])
            start = len(record["prompt_ids"]) - 1
            with torch.no_grad():
                teacher_probs = teacher(ids).logits[0, start:-1].softmax(-1)
                student_log_probs = student(ids).logits[0, start:-1].log_softmax(-1)
            total -= float((teacher_probs * student_log_probs).sum())
            tokens += len(record["response_ids"])
            ours, theirs = student_log_probs.exp().double().numpy(), teacher_probs.double().numpy()
            reverse_kl += stats.entropy(ours, theirs, axis=-1).tolist()
            for own, given in zip(ours, theirs, strict=True):
                best = given.argsort()[-5:]
                ndcg.append(ndcg_score([given[best]], [own[best]]))
    found = results(folder)
    assert found["kd", "soft_cross_entropy_nats"] == pytest.approx(total / tokens, rel=1e-4)
    assert found["kd", "reverse_kl_nats"] == pytest.approx(sum(reverse_kl) / tokens, rel=1e-3)
    assert found["kd", "ndcg"] == pytest.approx(sum(ndcg) / tokens, rel=1e-4)
    intervals = json.loads((folder / "evaluate" / "kd-seed0" / "metrics.json").read_text())
    assert all(one["low"] < one["value"] < one["high"] for one in intervals.values())


def _teacher(recipe: Path) -> str:
    import yaml

    return str(yaml.safe_load(recipe.read_text())["teacher"]["model"])


@pytest.mark.parametrize("stage", ["respond", "train"])
def test_killed_run_goes_on(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    words, cut = ("methods=[kd]", "training.epochs=2", "evaluation.samples=0"), tmp_path / "cut"
    with monkeypatch.context() as patch:
        if stage == "respond":
            real, calls = language_responses.write_table, []

            def write(path: Path, *rest: Any) -> None:
                if path.name.startswith("shard"):
                    calls.append(path)
                    if len(calls) == 3:
                        raise KeyboardInterrupt
                real(path, *rest)

            patch.setattr(language_responses, "write_table", write)
        else:
            patch.setattr(language_training, "_save", _interrupted)
        assert cli.main(["run", str(tiny_recipe), *words, f"output={cut}"]) == 130
    if stage == "respond":
        assert len(list((cut / "respond.partial").glob("shard-*.parquet"))) == 2
        kept = (cut / "respond.partial" / "shard-00000.parquet").stat().st_mtime_ns
    assert cli.main(["run", str(tiny_recipe), *words, f"output={cut}"]) == 0
    if stage == "respond":
        assert (cut / "respond" / "shard-00000.parquet").stat().st_mtime_ns == kept
    assert results(cut) == uninterrupted(tiny_recipe, tmp_path / "whole", *words)
    assert not list(cut.rglob("*.partial*"))


@pytest.mark.parametrize(("save_every", "kept"), [(17, []), (16, []), (7, [7, 14])])
def test_no_checkpoint_is_written_where_nothing_is_left_to_do(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, save_every: int, kept: list[int]
) -> None:
    """Killed before the student is saved, it is trained again, or resumed from the checkpoint, to the same metrics."""
    steps = ("methods=[kd]", "training.steps=16", "evaluation.samples=0")
    words = [*steps, f"training.save_every={save_every}"]
    folder = tiny_recipe.parent / "run"
    with monkeypatch.context() as patch:
        patch.setattr(language_training, "_save", _interrupted)
        assert cli.main(["run", str(tiny_recipe), *words]) == 130
    assert {path.name for path in folder.rglob("checkpoint-*")} == {f"checkpoint-{step}" for step in kept}
    assert cli.main(["run", str(tiny_recipe), *words]) == 0
    lines = (folder / "train" / "kd-seed0" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 17))  # in the middle of an epoch
    assert not list(folder.rglob("checkpoint*"))
    assert results(folder) == uninterrupted(tiny_recipe, tiny_recipe.parent / "whole", *steps)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_changed_settings_redo_only_what_depends_on_them(tiny_recipe: Path) -> None:
    assert cli.main(["run", str(tiny_recipe), "methods=[kd]"]) == 0
    folder = tiny_recipe.parent / "run"
    before = snapshot(folder)
    assert cli.main(["run", str(tiny_recipe), "methods=[kd]", "training.learning_rate=1e-2"]) == 0
    after = snapshot(folder)
    same = {name for name in before if before[name] == after.get(name)}
    assert {name.split("/")[0] for name in before if name not in same} == {"train", "evaluate"}
    assert (folder / "train" / "kd-seed0.old").is_dir()


def test_an_error_on_one_of_several_ranks_ends_the_run(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are in the same training and would wait for it: the launcher must see that it is over."""

    def fails(*_: Any) -> None:
        raise RuntimeError("out of memory")

    one = recipe.read(tiny_recipe, ["methods=[kd]"])
    assert dict(whole_run._each(one, fails)) == {"kd-seed0": "failed: RuntimeError: out of memory"}
    monkeypatch.setenv("WORLD_SIZE", "2")  # the launcher's word
    with pytest.raises(RuntimeError, match="out of memory"):
        dict(whole_run._each(one, fails))


def test_failed_method_is_shown_and_the_rest_goes_on(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grkd.objectives.methods.kd import KD

    def broken(*_: object) -> None:
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr(KD, "terms", broken)
    assert cli.main(["run", str(tiny_recipe)]) == 1
    folder = tiny_recipe.parent / "run"
    status = json.loads((folder / "results.json").read_text())["status"]
    assert status["grkd-seed0"] == "done"
    assert status["kd-seed0"].startswith("failed: RuntimeError: out of memory")
    assert "out of memory" in (folder / "report.html").read_text()


@pytest.mark.parametrize("change", ["score.signal=live", "responses.source=student", "student.lora={r: 4}"])
def test_variants(tiny_recipe: Path, change: str) -> None:
    assert cli.main(["run", str(tiny_recipe), change, "methods=[grkd]", "methods.0.pairs.group_size=8"]) == 0
    found = results(tiny_recipe.parent / "run")
    assert found["grkd", "soft_cross_entropy_nats"] < found["before", "soft_cross_entropy_nats"]


def test_fused_head_of_a_recipe_reaches_the_trainer(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grkd.training import trainer

    calls: list[int] = []
    real = trainer.distillation_head
    monkeypatch.setattr(trainer, "distillation_head", lambda **words: calls.append(1) or real(**words))
    for fused in (False, True):
        words = ["methods=[kd]", "training.steps=2", "evaluation.samples=0"]
        assert cli.main(["run", str(tiny_recipe), *words, f"training.fused_head={str(fused).lower()}"]) == 0
        assert bool(calls) == fused


def test_steps_per_generation_of_a_recipe_reaches_the_trainer(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grkd.training import on_policy

    calls: list[int] = []
    real = on_policy.sample_on_policy
    monkeypatch.setattr(
        on_policy, "sample_on_policy", lambda *words, **more: calls.append(more["batch_size"]) or real(*words, **more)
    )
    words = ["methods=[kd, {name: gkd, on_policy_fraction: 1.0}]", "training.steps=4", "evaluation.samples=0"]
    counted = {}
    for ahead in (1, 3):
        calls.clear()
        assert cli.main(["run", str(tiny_recipe), *words, f"training.steps_per_generation={ahead}"]) == 0
        counted[ahead] = len(calls)
        assert set(calls) == {6}  # responses.batch_size, whatever is asked at once
    assert counted == {1: 4, 3: 2}
    train = tiny_recipe.parent / "run" / "train"
    assert (train / "gkd-seed0.old").is_dir()
    assert not (train / "kd-seed0.old").exists(), "a method that samples nothing was trained again"


def test_packed_batches_of_a_recipe_make_the_student_of_padded_ones(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[int] = []
    real = language_rows.pack
    monkeypatch.setattr(language_rows, "pack", lambda *words, **more: packed.append(1) or real(*words, **more))
    words = ["methods=[kd]", "training.steps=3", "evaluation.samples=0"]
    students = []
    for tokens in ("null", "30"):
        assert not packed
        folder = tmp_path / tokens
        assert (
            cli.main(["run", str(tiny_recipe), *words, f"output={folder}", f"training.tokens_per_batch={tokens}"]) == 0
        )
        students.append(load_file(folder / "train" / "kd-seed0" / "student" / "model.safetensors"))
    assert packed
    for name, value in students[0].items():
        torch.testing.assert_close(students[1][name], value, rtol=0, atol=2e-6, msg=name)


def test_compile_of_a_recipe_reaches_the_layers(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """auto compiles nothing on a CPU; true does, and says why if the compiler fails."""
    asked: list[object] = []

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler here")

    def compiled(layer: torch.nn.Module, **_: object) -> None:
        asked.append(layer)
        monkeypatch.setattr(layer, "_compiled_call_impl", fails)

    monkeypatch.setattr(torch.nn.Module, "compile", compiled)
    words = ["methods=[kd]", "training.steps=1", "evaluation.samples=0"]
    assert cli.main(["run", str(tiny_recipe), *words]) == 0
    assert not asked
    assert cli.main(["run", str(tiny_recipe), *words, "training.compile=true", "training.learning_rate=1e-3"]) == 0
    assert asked
    said = " ".join(capsys.readouterr().err.split())
    assert "compile: compilation failed, so these models run uncompiled (no compiler here)" in said


def test_live_and_cached_signals_train_the_same_student(tiny_recipe: Path, tmp_path: Path) -> None:
    for signal in ("live", "cache"):
        words = [f"score.signal={signal}", f"output={tmp_path / signal}", "methods=[kd]", "training.epochs=2"]
        assert cli.main(["run", str(tiny_recipe), *words]) == 0
    live, cache = results(tmp_path / "live"), results(tmp_path / "cache")
    for key, value in live.items():
        assert cache[key] == pytest.approx(value, rel=1e-3)


def test_data_with_completions_and_long_prompts(tiny_recipe: Path) -> None:
    path = tiny_recipe.parent / "pairs.jsonl"
    lines = [{"prompt": f"w{n} w{n + 1}", "completion": f"w{n + 2} w{n + 3}"} for n in range(20)]
    lines += [{"prompt": "w1 " * 70, "completion": "w2"} for _ in range(3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(["run", str(tiny_recipe), f"data.train={path}", "responses.source=data", "methods=[ce]"]) == 0
    folder = tiny_recipe.parent / "run"
    counts = json.loads((folder / "results.json").read_text())["counts"]
    assert counts["prompts_dropped_too_long"] == 3
    assert counts["prompts_train"] + counts["prompts_heldout"] == 20
    record = pq.read_table(next((folder / "respond").glob("shard-*.parquet"))).to_pylist()[0]
    assert record["finished"]
    assert len(record["response_ids"]) == 3  # two words and the stop token


def test_classifier_run(tmp_path: Path) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "digits.yaml"
    words = [
        f"output={tmp_path / 'run'}",
        "seeds=[0,1]",
        "training.epochs=4",
        "teacher.training.epochs=4",
        "data.limit=600",
    ]
    assert cli.main(["run", str(recipe), *words]) == 0
    found = results(tmp_path / "run")
    assert found["teacher", "accuracy"] > 0.7
    for method in ("ce", "kd", "grkd"):
        assert 0.3 < found[method, "accuracy"] <= 1
        assert math.isfinite(found[method, "nll_nats"])
        assert 0 <= found[method, "ece"] <= 1
        assert 0 <= found[method, "brier"] <= 2
        assert found[method, "reverse_kl_nats"] > 0
    assert ("teacher", "ece") in found
    assert ("teacher", "reverse_kl_nats") not in found
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows)
    table = markdown_table(read_run(tmp_path / "run")).replace("\u00a0", " ")
    for header in ("reverse KL (nats) ↓", "calibration error (%) ↓", "Brier score ↓"):
        assert header in table
    grkd = next(line for line in table.splitlines() if line.startswith(("| grkd", "| **grkd")))
    assert " ± " in grkd.split("|")[2]  # over seeds, not the bootstrap interval of one
    before = snapshot(tmp_path / "run")
    assert cli.main(["run", str(recipe), *words]) == 0
    assert snapshot(tmp_path / "run") == before


def test_command_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["run", "--help"], ["demo", "--help"], ["report", "--help"]):
        with pytest.raises(SystemExit):
            cli.main(words)
        assert len(capsys.readouterr().out) > 300
    assert cli.main(["methods"]) == 0
    listed = capsys.readouterr().out
    for name in ("grkd", "kd", "ce"):
        assert name in listed
    assert cli.main(["methods", "grkd"]) == 0
    listed = capsys.readouterr().out
    assert "alpha_ceiling" in listed
    assert "preset: tokens" in listed


def test_check_prints_the_resolved_recipe(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", str(tiny_recipe), "--check", "training.epochs=7"]) == 0
    assert "epochs: 7" in capsys.readouterr().out
    assert not (tiny_recipe.parent / "run").exists()
