"""Stored groups beside new ones stand in the order of the method's own rankers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grkd.console import console
from grkd.language.context import LanguageContext
from grkd.language.prepare import prepare
from grkd.language.respond import respond
from grkd.language.score import read_groups, score
from grkd.language.stored_order import in_own_order
from grkd.language.train import training_inputs
from grkd.rankers import order
from grkd.recipe import LanguageRecipe, Method, read
from grkd.run.folder import RunFolder


def shortest(prompts: Any, completions: list[str], **columns: Any) -> list[float]:
    return [-float(len(text)) for text in completions]


def first_letter(prompts: Any, completions: list[str], **columns: Any) -> list[float]:
    return [float(len(text) % 3) for text in completions]


SHORT, LETTER = ({"name": "function", "function": f"{__name__}:{name}"} for name in ("shortest", "first_letter"))


@pytest.fixture
def context(tiny_recipe: Path) -> LanguageContext:
    rankers = f"[{{name: function, function: '{__name__}:shortest', label: short}}, log_prob]"
    words = ["responses.n=3", "responses.when=in_training", "responses.stored_share=0.5", "data.limit=12",
             f"score.rankers={rankers}", "score.combine=lexicographic", "methods=[dpo]",
             f"output={tiny_recipe.parent / 'run'}"]  # fmt: skip
    recipe = read(tiny_recipe, words)
    assert isinstance(recipe, LanguageRecipe)
    found = LanguageContext.open(recipe, RunFolder(Path(recipe.output)))
    for stage in (prepare, respond, score):
        stage(found)
    return found


def method(**own: Any) -> Method:
    return Method(name="dpo", label="dpo", **own)


def test_own_rankers_order_stored_groups(context: LanguageContext) -> None:
    groups = read_groups(context.run, "train")
    assert in_own_order(context, method(), groups) == groups
    assert in_own_order(context, method(combine="lexicographic"), groups) == groups
    by_teacher = in_own_order(context, method(rankers=["log_prob"]), groups)
    by_length = in_own_order(context, method(rankers=[SHORT]), groups)
    voted = in_own_order(context, method(combine="votes"), groups)
    assert any(one.teacher_scores != other.teacher_scores for one, other in zip(by_teacher, groups, strict=True))
    for teacher, length, votes, group in zip(by_teacher, by_length, voted, groups, strict=True):
        assert [item.id for item in length.items] == [item.id for item in group.items]
        scores = [np.array([each.teacher_scores]) for each in (length, teacher)]
        both = order(scores, combine="lexicographic").scores[0]
        np.testing.assert_array_equal(both, group.teacher_scores)  # the recipe's order is made of the same scores
        expected = order(scores, combine="votes")
        assert expected.votes is not None
        assert votes.votes is not None
        np.testing.assert_array_equal(votes.votes[0], expected.votes.share[0])
        np.testing.assert_array_equal(votes.votes[1], expected.votes.weight[0])
        np.testing.assert_array_equal(votes.teacher_scores, expected.scores[0])


def test_an_order_that_nobody_knows_is_said(context: LanguageContext) -> None:
    groups = read_groups(context.run, "train")
    with console.capture() as said:
        assert in_own_order(context, method(rankers=[LETTER, "log_prob"]), groups) == groups
    assert "keep the order of score.rankers, which lacks function" in " ".join(said.get().split())


def test_students_of_another_order_are_trained_again(context: LanguageContext) -> None:
    sampled = [training_inputs(context, each, 0)["sampled"] for each in (method(), method(rankers=["log_prob"]))]
    assert ["stored_order" in each for each in sampled] == [False, True]
