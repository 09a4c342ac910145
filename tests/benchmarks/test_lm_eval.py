"""Tasks of lm-eval by name: a task file of one's own runs offline, and two models are compared on it in pairs."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grkd import cli
from grkd.benchmarks import find
from grkd.benchmarks._lm_eval_run import _interval, _items
from grkd.errors import UserError
from grkd.models.cut import truncated

pytest.importorskip("lm_eval", reason="needs pip install 'grkd[eval]'")

TASK = """
task: mine
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: [w7, w8]
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task file of 12 questions of two choices, and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps({"question": f"w{n} w{n + 1}", "answer": n % 2}) + "\n" for n in range(12)))
    made = tmp_path / "tasks"
    made.mkdir()
    (made / "mine.yaml").write_text(TASK.format(questions=questions))
    return made


def right(model: Path) -> list[int]:
    """Which questions a model answers right: the likelier of the two words behind the question."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    choices = tokenizer.convert_tokens_to_ids(["w7", "w8"])
    found = []
    for n in range(12):
        ids = torch.tensor([tokenizer.convert_tokens_to_ids([f"w{n}", f"w{n + 1}"])])
        scores = network(ids).logits[0, -1, choices]
        found.append(int(scores.argmax()) == n % 2)
    return [int(one) for one in found]


def test_two_models_on_a_task_of_ones_own(
    folder: Path, tiny_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half"
    truncated(AutoModelForCausalLM.from_pretrained(tiny_teacher), [0, 2]).save_pretrained(half)
    AutoTokenizer.from_pretrained(tiny_teacher).save_pretrained(half)
    for name, model in (("whole", tiny_teacher), ("half", half)):
        words = [f"--output={tmp_path / name}", f"--lm-eval-folder={folder}", "--device=cpu"]
        assert cli.main(["eval", str(model), "--tasks=lm_eval:mine", *words]) == 0
        result = json.loads((tmp_path / name / "results" / "lm_eval:mine.json").read_text())
        assert [item["value"] for item in result["items"]] == right(model)
        assert result["metrics"]["acc"]["value"] == pytest.approx(sum(right(model)) / 12)
    capsys.readouterr()
    assert cli.main(["table", f"whole={tmp_path / 'whole'}", f"half={tmp_path / 'half'}", "--format=json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "mine" in json.dumps(found)
    only = [(one > two, two > one) for one, two in zip(right(tiny_teacher), right(half), strict=True)]
    expected = 100 * (sum(right(half)) - sum(right(tiny_teacher))) / 12
    (comparison,) = found["comparisons"]
    assert math.isclose(abs(comparison["difference"]), abs(expected), abs_tol=1e-9)
    assert comparison["test"] == "McNemar"
    counts = [comparison["only_a_right"], comparison["only_b_right"]]
    assert sorted(counts) == sorted(map(sum, zip(*only, strict=True)))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        pytest.param(
            *(["--tasks=lm_eval:no_such_task"], "no task 'no_such_task' in lm-eval nor in"), marks=pytest.mark.slow
        ),
        (["--tasks=lm_eval"], "lm_eval needs a task behind it"),
        (["--tasks=lm_eval:"], "needs the name of a task behind it"),
        (["--tasks=lm_eval:mine", "--lm-eval-folder=absent"], "--lm-eval-folder: absent: no such folder"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str],
    part: str,
    folder: Path,
    tiny_teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [f"--lm-eval-folder={folder}", "--device=cpu", f"--output={tmp_path / 'run'}"]
    assert cli.main(["eval", str(tiny_teacher), *given, *words]) == 2
    said = capsys.readouterr().err
    assert part in said
    assert said.count("\n") == 1


def test_the_main_metric_is_the_one_that_is_compared() -> None:
    sample = {"doc_id": 0, "metrics": ["acc", "acc_norm", "text"], "acc": 1.0, "acc_norm": 0.0, "text": "no number"}
    items, main = _items([("a", sample), ("a", sample), ("b", sample)])
    assert main == "acc_norm"
    assert [(item["id"], item["value"], item["acc"]) for item in items] == [("a/0", 0.0, 1.0), ("b/0", 0.0, 1.0)]
    assert _items([("a", {"doc_id": 0, "metrics": []})]) == ([], None)
    assert _interval([1.0, 0.0])["value"] == 0.5
    assert _interval([0.2, 0.4])["value"] == pytest.approx(0.3)


def test_a_url_is_refused() -> None:
    from grkd.benchmarks import settings_from

    with pytest.raises(UserError, match="reads log-probabilities"):
        find("lm_eval:arc_easy").check(settings_from({"model": "http://127.0.0.1/v1"}))
