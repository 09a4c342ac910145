"""A new method, ranker or benchmark is one source file: laid into its room, it is found, checked and shown."""

import ast
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from grkd import benchmarks, objectives, rankers
from grkd.benchmarks import all_benchmarks
from grkd.objectives import method_table, methods
from grkd.recipe import read
from grkd.testing import check_objective

ROOT = Path(__file__).parents[1]
METHOD = '''
"""Forward KL alone, at its own temperature."""

from dataclasses import dataclass
from typing import ClassVar

from grkd.losses import forward_kl
from grkd.objectives import Batch, Objective, Term, option


@dataclass(frozen=True, kw_only=True)
class Plain(Objective):
    """KL of the teacher's probabilities to the student's."""

    learns_from: ClassVar[str] = "the teacher's probabilities"
    minimises: ClassVar[str] = "forward KL"

    weight: float = option(1.0, "weight of the divergence")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        rows = forward_kl(batch.student, batch.required_teacher(), mask=batch.mask)
        return (Term(name="forward_kl", weight=self.weight, rows=rows, counted=batch.counted()),)


METHOD = Plain
'''
RANKER = '''
"""Shorter responses first."""

from dataclasses import dataclass

from grkd.objectives import option
from grkd.rankers import Ranker


@dataclass(kw_only=True)
class Brevity(Ranker):
    """Minus the number of characters, per `unit`."""

    unit: float = option(1.0, help="characters per point")

    def score(self, prompts, responses, columns):
        return [[-len(text) / self.unit for text in texts] for texts in responses]


RANKER = Brevity
'''
BENCHMARK = '''
"""A benchmark without questions."""

from grkd.benchmarks import Benchmark

BENCHMARK = Benchmark(name="parrot", title="Parrot", check=lambda settings: None, run=lambda session: {"metrics": {}})
'''


def laid(folder: Path, room: ModuleType, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file as if it lay in the room's folder."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(text.lstrip())
    monkeypatch.setattr(room, "__path__", [*room.__path__, str(folder)])


def test_a_method(tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid(tmp_path / "methods", methods, "plain_kl", METHOD, monkeypatch)
    assert "plain_kl" in objectives.names()
    assert "Forward KL alone" in objectives.summaries()["plain_kl"]
    assert "| `plain_kl` | forward KL |" in method_table("minimises")
    check_objective(objectives.load("plain_kl", weight=2.0))
    found = read(tiny_recipe, ["methods=[{name: plain_kl, weight: 3.0}]"])
    assert found.methods[0].options == {"weight": 3.0}


def test_a_ranker(tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid(tmp_path / "rankers", rankers, "brevity", RANKER, monkeypatch)
    assert "brevity" in rankers.names()
    found = read(tiny_recipe, ["responses.n=2", "score.rankers=[{name: brevity, unit: 10.0}]"])
    assert found.methods
    with rankers.panel(["brevity"]) as made:
        ranked = made(["a"], [["long answer", "yes"]])
    np.testing.assert_array_equal(ranked.by_ranker["brevity"], [[-11.0, -3.0]])


def test_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid(tmp_path / "benchmarks", benchmarks, "parrot", BENCHMARK, monkeypatch)
    all_benchmarks.cache_clear()
    try:
        assert all_benchmarks()["parrot"].title == "Parrot"
    finally:
        all_benchmarks.cache_clear()


def test_rankers_do_not_know_each_other() -> None:
    """As methods do not, which the import linter checks: they have a folder of their own."""
    for name in rankers.names():
        tree = ast.parse((ROOT / "src/grkd/rankers" / f"{name}.py").read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        others = {f"grkd.rankers.{other}" for other in rankers.names() if other != name}
        assert not imported & others, name
