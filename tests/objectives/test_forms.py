"""Named forms: what they stand for, what wins, and that they are what was measured."""

from pathlib import Path
from typing import Any

import pytest
import torch

from grkd import GRKDLoss, objectives, recipe
from grkd.errors import UserError

ROOT = Path(__file__).parents[2]
FORMS = objectives.FORMS["grkd"]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_its_options_and_what_is_given_wins(form: str) -> None:
    assert objectives.load("grkd", form=form) == objectives.load("grkd", **FORMS[form])
    given = {"alpha_ceiling": 0.25, "tau": 3.0}
    assert objectives.load("grkd", form=form, **given) == objectives.load("grkd", **{**FORMS[form], **given})


def test_the_papers_form_is_the_default() -> None:
    assert objectives.load("grkd", form="paper") == objectives.load("grkd")


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(UserError, match="unknown form 'clases'; known: paper, tokens, responses, classes"):
        objectives.load("grkd", form="clases")
    with pytest.raises(UserError, match="kd: unknown option 'form'"):
        objectives.load("kd", form="classes")


def test_the_module_takes_forms() -> None:
    student, teacher = torch.randn(8, 5), torch.randn(8, 5)
    found = GRKDLoss(form="classes")(student, teacher, progress=0.5)
    assert found == GRKDLoss(**FORMS["classes"])(student, teacher, progress=0.5)
    with pytest.raises(UserError, match="level must be 'token'"):
        GRKDLoss(form="responses")


def _measured(path: str, label: str) -> dict[str, Any]:
    read = recipe.read(ROOT / "recipes" / path)
    return next(method.options for method in read.methods if method.label == label)


def test_forms_are_those_of_the_recipes_that_measured_them() -> None:
    """The temperature of the forms for language models is the one that the search chose there."""
    for path in sorted((ROOT / "recipes" / "classification").glob("*.yaml")):
        if not path.stem.startswith("ablation"):
            assert _measured(f"classification/{path.name}", "grkd") == FORMS["classes"], path.name
    assert {**_measured("arithmetic.yaml", "grkd-pairs"), "temperature": 2.0} == FORMS["tokens"]
    assert {**_measured("arithmetic.yaml", "grkd-response"), "temperature": 2.0} == FORMS["responses"]


def test_a_recipes_form_is_spelt_out(tmp_path: Path) -> None:
    """A run is known by its options: another version's form of the same name is another run."""
    path = tmp_path / "recipe.yaml"
    text = "task: classifier\noutput: out\nteacher: {model: mlp}\nstudent: {model: mlp}\ndata: {dataset: digits}\n"
    path.write_text(f"{text}methods:\n  - kd\n  - {{name: grkd, form: classes, pair_scale: 1}}\n", encoding="utf-8")
    assert recipe.read(path).methods[1].options == {**FORMS["classes"], "pair_scale": 1.0}
    path.write_text(f"{text}methods:\n  - {{name: grkd, form: clases}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"recipe.yaml:7: methods.0.form: .*did you mean 'classes'"):
        recipe.read(path)
    path.write_text(f"{text}methods:\n  - {{name: kd, form: classes}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"recipe.yaml:7: methods.0.form: unknown key"):
        recipe.read(path)
