"""The checks of a language model's recipe, in order: files first, then models."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from grkd.doctor.conversations import look_at_answers, look_at_overlap
from grkd.doctor.finding import Finding, note
from grkd.doctor.served import look_at_judges, look_at_server
from grkd.doctor.sides import Sides
from grkd.doctor.tokens import look_at_tokens
from grkd.doctor.weights import Loaded, look_at_teacher, look_at_weights
from grkd.models.load import load_tokenizer
from grkd.recipe import LanguageRecipe, SelfTeacher, ServedModel, label_of


def look_at_language(recipe: LanguageRecipe, *, ask: bool = False) -> Iterator[Finding]:
    """Tokenizers, data, then 32 prompts on the models themselves. ask: a few requests to servers, too."""
    sides = Sides.of(recipe)
    yield from look_at_tokens(sides)
    yield from look_at_overlap(sides)
    yield from look_at_answers(sides)
    loaded = Loaded.of(sides)
    yield from look_at_weights(sides, loaded)
    if isinstance(recipe.teacher, ServedModel):
        yield from look_at_server(sides, ask=ask)
    elif isinstance(recipe.teacher, list):
        yield from _look_at_servers(sides, recipe.teacher, ask=ask)
    elif isinstance(recipe.teacher, SelfTeacher):
        yield note("teacher", "it is the student with a longer prompt and was not compared", "see the report")
    elif loaded.teacher is not None:
        yield from look_at_teacher(sides, loaded)
    yield from look_at_judges(sides, ask=ask)


def _look_at_servers(sides: Sides, teachers: Sequence[Any], *, ask: bool) -> Iterator[Finding]:
    """Of several teachers those behind a server, each by itself and named by its label."""
    for one in teachers:
        if not isinstance(one, ServedModel):
            continue
        own = load_tokenizer(one.tokenizer) if one.tokenizer else None
        alone = replace(sides, recipe=replace(sides.recipe, teacher=one), teacher_tokenizer=own)
        for found in look_at_server(alone, ask=ask):
            yield replace(found, text=f"{label_of(one)}: {found.text}")
