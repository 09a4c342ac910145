"""Methods that mix stored and new responses read the stored ones' hidden states from the score stage."""

from pathlib import Path

import pytest
import torch

from grkd.language.context import LanguageContext
from grkd.language.prepare import prepare
from grkd.language.respond import respond
from grkd.language.score import cached_splits, read_groups, score
from grkd.language.train import trained_student
from grkd.recipe import LanguageRecipe, read
from grkd.run.folder import RunFolder
from grkd.training import teacher_ahead
from grkd.training.token_rows import teacher_hidden

PAIRS = "{name: grkd, ranking: [{part: pairs, level: response}], anchor: [{part: soft_target, divergence: reverse_kl}]}"
IN_TRAINING = ["responses.when=in_training", "responses.stored_share=0.5"]
COMMON = ["responses.n=2", "training.epochs=2", "training.steps_per_generation=2", "data.limit=12"]


def recipe_of(path: Path, signal: str, *words: str) -> LanguageRecipe:
    found = read(path, [*COMMON, f"score.signal={signal}", f"output={path.parent / signal}", *words])
    assert isinstance(found, LanguageRecipe)
    return found


@pytest.mark.parametrize(
    "words", [[f"methods=[{PAIRS}]", *IN_TRAINING], ["methods=[gkd]"], ["methods=[gkd]", *IN_TRAINING]]
)
def test_the_student_is_that_of_the_live_signal(
    tiny_recipe: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []

    def watched(teacher: object, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        asked[-1].update(group.id for group in batch["groups"] if "#fresh" not in group.items[0].id)  # type: ignore[attr-defined]
        return teacher_hidden(teacher, batch)

    monkeypatch.setattr(teacher_ahead, "teacher_hidden", watched)
    students = []
    for signal in ("cache", "live"):
        recipe = recipe_of(tiny_recipe, signal, *words)
        context = LanguageContext.open(recipe, RunFolder(Path(recipe.output)))
        for stage in (prepare, respond, score):
            stage(context)
        asked.append(set())
        groups = read_groups(context.run, "train")
        (work := context.run.path / "work").mkdir()
        students.append(trained_student(context, recipe.methods[0], 0, groups, work, description="").state_dict())
    stored, live = students
    assert max(float((stored[name] - live[name]).abs().max()) for name in live) < 1e-5
    if "responses.when=in_training" in words:  # where new responses have names of their own
        assert not asked[0], "the teacher computes no stored response"
        assert asked[1] <= {group.id for group in groups}
        assert asked[1]


@pytest.mark.parametrize(
    ("words", "splits"),
    [
        (["methods=[kd]"], ["train", "heldout"]),
        (["methods=[gkd]"], ["train", "heldout"]),
        (["methods=[opd]"], ["heldout"]),
        ([f"methods=[{PAIRS}]", *IN_TRAINING], ["train", "heldout"]),
        ([f"methods=[{PAIRS}]", "responses.when=in_training"], ["heldout"]),
        (["methods=[opd, dpo]", *IN_TRAINING], ["heldout"]),
    ],
)
def test_hidden_states_are_kept_if_a_method_reads_them(tiny_recipe: Path, words: list[str], splits: list[str]) -> None:
    assert cached_splits(recipe_of(tiny_recipe, "cache", *words), shared=True) == splits
