"""Whatever is wrong with a recipe: no traceback, one short line, status 2, and nothing written."""

import contextlib
import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grkd import cli

DIGITS = yaml.safe_load((Path(__file__).parents[2] / "recipes" / "digits.yaml").read_text(encoding="utf-8"))
ODD: list[Any] = [
    *(None, True, 0, -1, 3, 10**12, 10**30, 0.5, -0.5, 1e300, float("inf"), float("nan")),
    *(
        "",
        " ",
        "x",
        "~",
        "~nosuchuser/x",
        "/",
        "..",
        "a" * 300,
        "a/" * 200,
        "kd",
        "auto",
        "1e-4",
        "é\u2028",
        "\0",
        "\ud83d",
    ),
    *("os:system", "json:loads", "a:b", "http://127.0.0.1:1/v1", "{{ 7 }}", "hf_" + "a" * 30),
    *([], [[]], [1, "x"], ["kd"] * 3, {}, {"x": 1}, {"name": "kd"}, {"model": "mlp"}, {"": ""}, {"steps": 1}),
]


def paths(inside: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and list entry of a recipe."""
    steps = inside.items() if isinstance(inside, dict) else enumerate(inside) if isinstance(inside, list) else ()
    for key, value in steps:
        yield (*above, key)
        yield from paths(value, (*above, key))


@st.composite
def changes(draw: st.DrawFn, recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with a value replaced, a key added, or one removed; once or twice."""
    changed = copy.deepcopy(recipe)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(paths(changed))))
        inside = changed
        for key in path[:-1]:
            inside = inside[key]
        odd = copy.deepcopy(draw(st.sampled_from(ODD)))
        what = draw(st.sampled_from(["replace", "replace", "replace", "add", "remove"]))
        if what == "remove":
            del inside[path[-1]]
        elif what == "add" and isinstance(inside, dict):
            inside[draw(st.sampled_from(["extra", "limit", "weights", "folder", "x" * 400, "labels", "options"]))] = odd
        else:
            inside[path[-1]] = odd
        if not changed:
            break
    return changed


def checked(recipe: dict[str, Any], folder: Path) -> None:
    """`grkd run --check` of a recipe; JSON is YAML, and says what no YAML writer would."""
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(["run", str(path), "--check"])
    said = err.getvalue()
    assert status in (0, 2)
    if status == 2:
        assert said.startswith("grkd: error: ")
        assert said.count("\n") == 1
        assert len(said) < 400 + len(str(folder))
    assert [file.name for file in folder.iterdir() if file.name not in ("prompts.jsonl", "teacher")] == ["recipe.yaml"]


CHEAP = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@CHEAP
@given(recipe=changes({**DIGITS, "output": "run"}))
def test_a_classifier_recipe(recipe: dict[str, Any], tmp_path: Path) -> None:
    checked(recipe, tmp_path)


LANGUAGE = {
    "task": "language_model",
    "output": "run",
    "device": "cpu",
    "teacher": {"model": "./teacher"},
    "student": {"layers": [0, 2], "lora": {"r": 2, "target_modules": ["q_proj"]}},
    "data": {"train": "prompts.jsonl", "heldout_fraction": 0.25, "max_prompt_tokens": 30, "limit": 20},
    "responses": {"source": "teacher", "n": 2, "max_new_tokens": 6, "temperature": 1.0},
    "methods": ["kd", {"name": "grkd", "group": "sample", "group_size": 8}],
    "training": {"epochs": 1, "learning_rate": 5e-3, "report_to": "none", "extra": {"adam_beta2": 0.9}},
    "evaluation": {"top_k": 5, "samples": 2},
}


@pytest.fixture(scope="module")
def language_folder(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path, tiny_prompts: Path) -> Path:
    folder = tmp_path_factory.mktemp("language")
    (folder / "teacher").symlink_to(tiny_teacher)
    (folder / "prompts.jsonl").write_bytes(tiny_prompts.read_bytes())
    return folder


@CHEAP
@given(recipe=changes(LANGUAGE))
def test_a_language_recipe(recipe: dict[str, Any], language_folder: Path) -> None:
    checked(recipe, language_folder)
