"""`grkd compare` and `grkd eval --tasks rank` where the teacher is a server, a cache of ranks, or several."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grkd.benchmarks import _rank_task as rank_task
from grkd.cli import main
from grkd.files import read_json
from tests._model_server import ModelServer

COMMON = ["data.limit=12", "evaluation.samples=0", "evaluation.top_k=5", "training.epochs=1", "responses.n=2"]
SEARCH = ["search.trials=2", "search.learning_rate=[1e-4,5e-3]", "search.metric=soft_cross_entropy_nats"]


@pytest.fixture(scope="module")
def model_server(tiny_teacher: Path) -> Iterator[ModelServer]:
    pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")
    made = ModelServer(tiny_teacher)
    yield made
    made.close()


def compared(path: Path, teacher: str, *words: str) -> Path:
    """The run's folder; everything is tried and tested once."""
    output = path.parent / "compared"
    given = [*COMMON, *SEARCH, f"teacher={teacher}", f"output={output}", *words]
    assert main(["compare", str(path), *given, "--seeds", "1"]) == 0
    methods = {row["method"] for row in read_json(output / "results.json")["rows"] if row["seed"] is not None}
    assert methods == {line["method"] for line in read_json(output / "search.json")}
    return output


def measured(run: Path, name: str = "kd-seed0") -> dict[str, Any]:
    """What the rank task finds, by the command and here, beside the run's own evaluation."""
    student = run / "train" / name / "student"
    out = run.parent / "evaluated"
    assert main(["eval", str(student), "--tasks", "rank", "--device", "cpu", "--output", str(out)]) == 0
    found = rank_task.run(str(student), run, top_k=5)
    own = read_json(run / "evaluate" / name / "metrics.json")
    for metric, values in own.items():
        label = metric if metric.startswith("response_") else f"token_{metric}"
        if label in found["metrics"]:
            assert found["metrics"][label] == pytest.approx(values, rel=1e-4, abs=1e-6), metric
    return found


def test_a_served_teacher(tiny_recipe: Path, tiny_teacher: Path, model_server: ModelServer) -> None:
    """No copy of it here: what it answered is stored, so the measures ask for nothing, and nothing is asked twice."""
    teacher = f"{{url: {model_server.url}, served_model: s, top_k: 12}}"
    run = compared(tiny_recipe, teacher, f"student={{model: {tiny_teacher}}}", "methods=[kd]")
    asked = [str(body) for body in model_server.answered if "prompt" in body]
    assert len(asked) == len(set(asked)) > 0
    found = measured(run)
    assert {"token_kendall_tau", "token_forward_kl_nats", "response_pair_accuracy"} <= found["metrics"].keys()
    assert len([body for body in model_server.answered if "prompt" in body]) == len(asked)


@pytest.mark.parametrize("order_only", [False, True])
def test_a_cache_of_ranks(tiny_recipe: Path, *, order_only: bool) -> None:
    folder, build = tiny_recipe.parent / "cache", tiny_recipe.parent / "build"
    method = "{name: grkd, label: kd, ranking: [{part: pairs, group: top, group_size: 6}], anchor: []}"
    method = method if order_only else "{name: kd, temperature: 1.0}"
    words = [*COMMON, f"methods=[{method}]", f"output={build}", "--entries", "6"]
    only = ["--order-only"] if order_only else []
    assert main(["cache", "build", str(tiny_recipe), str(folder), *words, *only]) == 0
    more = ["search.metric=kendall_tau"] if order_only else []
    student = f"student={{model: {build / 'prepare' / 'student'}}}"
    run = compared(tiny_recipe, f"{{cache: {folder}}}", student, f"methods=[{method}]", *more)
    found = measured(run)["metrics"]
    assert {"token_kendall_tau", "response_pair_accuracy", "token_nll_nats"} <= found.keys()
    assert ("token_forward_kl_nats" in found) == (not order_only)


def test_several_teachers(tiny_recipe: Path, tiny_teacher: Path, model_server: ModelServer) -> None:
    """One here and one behind a server: the order of responses is measured, and why no token is said."""
    served = f"{{url: {model_server.url}, served_model: s, label: there, tokenizer: {tiny_teacher}}}"
    teachers = f"[{{model: {tiny_teacher}, label: here}}, {served}]"
    run = compared(tiny_recipe, teachers, "methods=[kd]", f"student={{model: {tiny_teacher}}}")
    found = measured(run)
    assert "response_pair_accuracy" in found["metrics"]
    assert found["note"] == "no token metrics: the run has stored no teacher's scores of tokens"
