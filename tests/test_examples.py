"""The examples run and do what they say."""

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from grkd import objectives
from grkd.data.sources import read_examples
from grkd.errors import UserError
from tests.conftest import word_tokenizer

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


@pytest.fixture
def small_student(tmp_path: Path) -> Path:
    """A fresh model of one layer with the tiny teacher's vocabulary."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=40, **sizes, max_position_embeddings=64, bos_token_id=None, eos_token_id=3)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "student")
    word_tokenizer().save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def test_any_training_loop() -> None:
    assert example("any_training_loop")(epochs=30) > 0.6


def test_a_language_model_in_a_flat_loop(tiny_teacher: Path, small_student: Path, tmp_path: Path) -> None:
    path, output = tmp_path / "prompts.jsonl", tmp_path / "out"
    lines = [{"prompt": f"w{n % 30} w{n % 7}", "completion": f"w{n % 5} w{(3 * n) % 30}"} for n in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [str(tiny_teacher), str(small_student), str(path), str(output), "--learning-rate", "1e-2"]
    found = example("distil_a_language_model")(words)
    assert found["after"]["forward_kl_nats"] < 0.8 * found["before"]["forward_kl_nats"]
    assert found["after"]["kendall_tau"] > found["before"]["kendall_tau"]
    AutoModelForCausalLM.from_pretrained(output)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # inside peft
def test_the_trainer_with_lora(tiny_teacher: Path, small_student: Path, tmp_path: Path) -> None:
    records = [
        {"messages": [{"role": "user", "content": f"w{n}"}, {"role": "assistant", "content": f"w{n % 5} w{n % 3}"}]}
        for n in range(30)
    ]
    output = tmp_path / "out"
    found = example("grkd_trainer_with_lora")(
        str(tiny_teacher), str(small_student), str(output), records, use_cpu=True, disable_tqdm=True
    )
    assert found["after"] < found["before"]
    AutoModelForCausalLM.from_pretrained(output)


def test_a_classifier_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three colours of noise in three folders."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    generator = torch.Generator().manual_seed(0)
    for number, name in enumerate(("red", "green", "blue")):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for count in range(12):
            pixels = torch.randint(0, 120, (16, 16, 3), generator=generator, dtype=torch.uint8)
            pixels[..., number] += 100
            Image.fromarray(pixels.numpy()).save(folder / f"{count}.png")
    assert example("own_classifier")(tmp_path / "images", tmp_path / "run", epochs=4) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    found = {row["method"]: row["value"] for row in results["rows"] if row["metric"] == "accuracy"}
    assert {"ce", "kd", "grkd", "teacher"} <= found.keys()
    assert found["teacher"] > 0.6


def test_add_a_method() -> None:
    assert runpy.run_path(str(EXAMPLES / "add_a_method.py"))["main"](steps=80) > 0.95


def test_the_methods_path_works_in_a_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    objective = objectives.load("add_a_method:HingeKD", margin=2)
    assert type(objective).__name__ == "HingeKD"
    with pytest.raises(UserError, match=r"HingeKD: unknown option 'margn' \(did you mean 'margin'\?\)"):
        objectives.load("add_a_method:HingeKD", margn=2)


def test_graded_answers_become_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("a", " yes ", 3),
        ("a", "no", 1),
        ("a", "yes", 2),
        ("a", "perhaps", -1),
        ("a", "", 9),
        ("b", "x", 5),
        ("b", "y", 5),
    ]
    table = pa.table(
        {name: [row[at] for row in rows] for at, name in enumerate(("question_id", "output", "gpt4_score"))}
    )
    pq.write_table(table, tmp_path / "answers.parquet")
    prompts = [{"question_id": one, "turns": [f"{one}?", "and then?"]} for one in ("a", "b")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in prompts))
    paths = [str(tmp_path / name) for name in ("answers.parquet", "prompts.jsonl", "groups.jsonl")]
    monkeypatch.setattr("sys.argv", ["groups_from_grades.py", *paths])
    example("groups_from_grades")()
    (group,) = read_examples(tmp_path / "groups.jsonl")
    assert (group.prompt, group.responses) == ("a?", ["yes", "no", "perhaps"])
    assert group.scores is not None
    assert group.scores[:2] == [3.0, 1.0]
    assert math.isnan(group.scores[2])
