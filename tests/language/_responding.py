"""The first two stages of the tiny recipe, and what they leave."""

from pathlib import Path
from typing import Any

from grkd.files import read_json
from grkd.language.context import LanguageContext
from grkd.language.prepare import prepare
from grkd.language.respond import read_records, respond
from grkd.recipe import LanguageRecipe, read
from grkd.run.folder import RunFolder

W = 6  # id of the word w0 in the tiny tokenizer; 3 is <end>


def made(recipe_path: Path, *words: str, output: str = "run") -> tuple[LanguageRecipe, RunFolder]:
    """The first two stages of the tiny recipe, with changes."""
    recipe = read(
        recipe_path, ["methods=[ce]", "responses.batch_size=30", *words, f"output={recipe_path.parent / output}"]
    )
    assert isinstance(recipe, LanguageRecipe)
    run = RunFolder(Path(recipe.output))
    context = LanguageContext.open(recipe, run)
    prepare(context)
    respond(context)
    return recipe, run


def groups(run: RunFolder) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for split in ("train", "heldout"):
        for record in read_records(run, split):
            found.setdefault(record["group"], []).append(record)
    return found


def counts(run: RunFolder) -> dict[str, int]:
    found: dict[str, int] = read_json(run.path / "respond" / "counts.json")
    return found
