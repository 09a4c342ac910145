"""results.json and samples.json from what the stages left."""

import json
from pathlib import Path

from grkd.files import write_json
from grkd.recipe import LanguageRecipe, read
from grkd.run.results import collect


def recipe(folder: Path) -> LanguageRecipe:
    path = folder / "recipe.yaml"
    path.write_text(
        f"task: language_model\noutput: {folder}\nteacher: {{model: org/big}}\nstudent: {{model: org/small}}\n"
        "data: {dataset: org/prompts}\nmethods: [kd]\n"
    )
    found = read(path, [])
    assert isinstance(found, LanguageRecipe)
    return found


def test_answers_that_are_no_longer_asked_for_are_shown_no_more(tmp_path: Path) -> None:
    found, answers = recipe(tmp_path), tmp_path / "evaluate" / "before" / "answers.json"
    answers.parent.mkdir(parents=True)
    write_json(answers, [{"prompt": "?", "answer": "4"}])
    collect(found, tmp_path, {})
    samples = tmp_path / "evaluate" / "samples.json"
    assert json.loads(samples.read_text())[0]["answers"] == {"before": "4"}
    answers.unlink()
    collect(found, tmp_path, {})
    assert not samples.exists()
