"""What the README says is true: its tables come from the result files, its recipe reads, its Python runs."""

import re
from pathlib import Path

import pytest
import torch

from benchmarks import demo_results
from grkd import objectives, recipe
from grkd.models.cut import truncated
from grkd.models.load import load_language_model, load_tokenizer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)[number]


def test_tables_and_picture_come_from_the_result_files() -> None:
    assert demo_results.readme(README) == README, "run: python -m benchmarks.demo_results write"
    # Titles and values are in the labels; positions depend on matplotlib's version.
    shown, made = (
        re.findall('aria-label="[^"]*"', text)
        for text in ((ROOT / "docs" / "report.svg").read_text(encoding="utf-8"), demo_results.picture())
    )
    assert shown == made, "run: python -m benchmarks.demo_results write"
    assert len(shown) == 4


def test_yaml_is_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(block("yaml"))
    read = recipe.read(path)
    assert [method.name for method in read.methods] == ["kd", "dpo", "grkd"]


def test_python_trains() -> None:
    torch.manual_seed(0)
    student, teacher = torch.nn.Linear(6, 5), torch.nn.Linear(6, 5)
    before = student.weight.detach().clone()
    batches = [(torch.randn(4, 3, 6), torch.ones(4, 3, dtype=torch.bool)) for _ in range(3)]
    names = {
        "torch": torch,
        "student": student,
        "teacher": teacher,
        "batches": batches,
        "last_step": 2,
        "optimizer": torch.optim.SGD(student.parameters(), lr=0.1),
    }
    exec(block("python"), names)
    assert not torch.equal(student.weight, before)


def test_the_trainer_trains(tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    teacher = load_language_model(str(tiny_teacher), dtype=torch.float32)
    student = truncated(teacher, [0, 2])
    before = student.get_output_embeddings().weight.detach().clone()
    records = [{"prompt": f"w{n}", "completion": "w3 w4"} for n in range(4)]
    names = {
        "student": student,
        "teacher": teacher,
        "records": records,
        "tokenizer": load_tokenizer(str(tiny_teacher)),
    }
    exec(block("python", 1), names)
    assert not torch.equal(student.get_output_embeddings().weight.cpu(), before)


@pytest.mark.parametrize("name", objectives.names())
def test_every_method_is_in_the_table(name: str) -> None:
    assert re.search(rf"^\| `{name}` \|", README, re.MULTILINE)


def test_the_first_sentence_counts_the_methods() -> None:
    assert f"compare {len(objectives.names())} distillation methods" in README
