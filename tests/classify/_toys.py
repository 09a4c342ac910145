"""A small comparison of classifiers on digits, and on texts, that trains in a second."""

from pathlib import Path
from typing import Any

import pytest

from grkd import recipe
from grkd.classify import lockstep
from grkd.classify.compare import ClassifierComparison
from grkd.classify.context import ClassifierContext
from grkd.recipe import ClassifierRecipe
from grkd.run.folder import RunFolder

DIGITS = """
task: classifier
output: {output}
device: cpu
data: {{dataset: digits, limit: 300}}
teacher: {{model: mlp, options: {{hidden: [32]}}, training: {{epochs: 8, batch_size: 32, learning_rate: 1e-2}}}}
student: {{model: mlp, options: {{hidden: [6]}}}}
methods: [ce, {{name: kd, label: soft}}, {{name: grkd, pairs.normalize: candidates}}]
seeds: [0, 1]
training: {{epochs: 2, batch_size: 32, learning_rate: 1e-2}}
search:
  trials: 4
  learning_rate: [3e-3, 3e-2]
  options: {{soft: {{temperature: [1.0, 2.0, 4.0]}}, grkd: {{pairs.weight: [1.0, 4.0]}}}}
"""
# Final runs alone, of two methods and one seed.
SMALL = ("search=null", "methods=[ce, kd]", "seeds=[0]")

TEXTS = """
task: classifier
output: {output}
device: cpu
data: {{train: texts.csv, heldout: texts.csv, features: tfidf}}
teacher: {{model: mlp, options: {{hidden: [16]}}, training: {{epochs: 6, batch_size: 8, learning_rate: 1e-2}}}}
student: {{model: mlp, options: {{hidden: [4]}}}}
methods: [kd]
seeds: [0]
training: {{epochs: 2, batch_size: 8, learning_rate: 1e-2}}
"""
WORDS = {"card": ["lost", "stolen", "card", "blocked"], "rate": ["rate", "percent", "money", "exchange"]}
LABELLED = [(f"{one} {two} please now", label) for label, own in WORDS.items() for one in own for two in own]


def read(tmp_path: Path, *words: str, text: str = DIGITS) -> ClassifierRecipe:
    """The recipe with its output in tmp_path/run."""
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(f"{line},{label}\n" for line, label in LABELLED))
    path = tmp_path / "recipe.yaml"
    path.write_text(text.format(output=tmp_path / "run"))
    found = recipe.read(path, words)
    assert isinstance(found, ClassifierRecipe)
    return found


def compare(tmp_path: Path, *words: str, text: str = DIGITS, **options: Any) -> dict[str, str]:
    """Compare the recipe's methods; the outcome of each final run."""
    found = read(tmp_path, *words, text=text)
    return ClassifierComparison(found, RunFolder(Path(found.output))).compare(**options)


def context(tmp_path: Path, *words: str, text: str = DIGITS) -> ClassifierContext:
    """The context of a recipe, as another process opens it."""
    found = read(tmp_path, *words, text=text)
    return ClassifierContext(found, RunFolder(Path(found.output)))


def written(folder: Path) -> dict[str, float]:
    """When each JSON file of a folder was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*.json")}


def noted_groups(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the students of every group that is trained from now on."""
    seen: list[list[str]] = []
    real = lockstep.train_lockstep

    def noted(jobs: Any, *arguments: Any, **options: Any) -> Any:
        seen.append([job.name for job in jobs])
        return real(jobs, *arguments, **options)

    monkeypatch.setattr(lockstep, "train_lockstep", noted)
    return seen
