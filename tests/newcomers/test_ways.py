"""Three newcomers, each from an empty folder to a report: own chats, own script, own images in a table."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from grkd import cli
from grkd.models.cut import truncated

SCRIPT = """
from transformers import AutoModelForCausalLM, AutoTokenizer

from grkd import GRKDConfig, GRKDTrainer

records = [{"prompt": f"w{n} w{n + 1}", "completion": f"w{n + 2} w{n % 5}"} for n in range(24)]
trainer = GRKDTrainer(
    "./small",
    "./large",
    args=GRKDConfig(
        "mine", method="kd", max_steps=4, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1.0,
        eval_metrics=["kendall_tau", "pair_accuracy"], eval_top_k=5, use_cpu=True, report_to="none",
        save_strategy="no", disable_tqdm=True,
    ),
    train_dataset=records[:16],
    eval_dataset=records[16:],
)
trainer.evaluate()
trainer.train()
trainer.evaluate()
trainer.save_model("mine/student")
"""


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which everything is done."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def models(folder: Path, teacher: Path) -> None:
    """Folders `large` and `small`, as a newcomer has them."""
    shutil.copytree(teacher, folder / "large")
    truncated(AutoModelForCausalLM.from_pretrained(teacher), [0, 2]).save_pretrained(folder / "small")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(folder / "small")


def commands(*lines: str) -> None:
    for line in lines:
        assert cli.main(line.split()) == 0, line


def test_own_chats_with_two_model_folders(empty: Path, tiny_teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models(empty, tiny_teacher)
    chats = [
        {"messages": [{"role": "user", "content": f"w{n} w{n % 7}"}, {"role": "assistant", "content": f"w{n + 1} w2"}]}
        for n in range(24)
    ]
    (empty / "chats.jsonl").write_text("".join(json.dumps(one) + "\n" for one in chats))
    commands(
        "init chats.jsonl --teacher ./large --student ./small",
        "doctor recipe.yaml evaluation.top_k=5",
        "plan recipe.yaml --quick evaluation.top_k=5",
        "run recipe.yaml training.steps=4 evaluation.top_k=5 evaluation.samples=1",
    )
    shown = capsys.readouterr().out
    assert "next: grkd doctor recipe.yaml" in shown
    page = (empty / "runs" / "recipe" / "report.html").read_text()
    assert "Kendall" in page
    assert "grkd" in page
    saved = AutoModelForCausalLM.from_pretrained(empty / "runs" / "recipe" / "train" / "grkd-seed0" / "student")
    assert saved.config.num_hidden_layers == 2


def test_own_script_with_the_trainer(empty: Path, tiny_teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models(empty, tiny_teacher)
    (empty / "script.py").write_text(SCRIPT)
    runpy.run_path("script.py")
    capsys.readouterr()
    commands("report mine")
    shown = capsys.readouterr().out
    assert "before" in shown
    assert "kd" in shown
    found = json.loads((empty / "mine" / "results.json").read_text())
    values = {(row["method"], row["metric"]): row["value"] for row in found["rows"]}
    for metric in ("kendall_tau", "pair_accuracy", "loss"):
        assert values["kd", metric] != values["before", metric]
    lines = (empty / "mine" / "train" / "kd-seed42" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    page = (empty / "mine" / "report.html").read_text()
    assert "pair accuracy" in page.lower()
    assert "Not available" not in page  # it has no recipe, and misses none
    assert "pairs swapped" in page
    assert "Sample answers" in page
    assert "learning_rate: 0.01" in page
    assert found["costs"]["kd"]["parameters"] > 0
    assert "Cost and quality" in page
    assert AutoModelForCausalLM.from_pretrained(empty / "mine" / "student").config.num_hidden_layers == 2


def test_own_images_and_a_table(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = np.random.default_rng(0)
    (empty / "photos").mkdir()
    rows = []
    for number in range(60):
        name = ("light", "dark")[number % 2]
        values = drawn.integers(0, 100, (8, 8, 3)) + (150 if name == "light" else 0)
        Image.fromarray(values.astype(np.uint8)).save(empty / "photos" / f"{number}.png")
        rows.append(f"{number}.png,{name}\n")
    (empty / "labels.csv").write_text("file,label\n" + "".join(rows))
    short = "data.image_size=8 teacher.training.epochs=2 training.epochs=2"
    commands(
        "init labels.csv",
        f"doctor recipe.yaml {short}",
        f"plan recipe.yaml --quick {short}",
        f"run recipe.yaml {short}",
    )
    capsys.readouterr()
    page = (empty / "runs" / "recipe" / "report.html").read_text()
    assert "accuracy" in page.lower()
    metrics = json.loads((empty / "runs" / "recipe" / "evaluate" / "teacher" / "metrics.json").read_text())
    assert metrics["accuracy"]["value"] > 0.9
    assert (empty / "runs" / "recipe" / "best").is_dir()
