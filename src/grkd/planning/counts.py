"""How many prompts and tokens a language recipe's data have."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.language import Item
from grkd.data.prompts import Example
from grkd.data.template import NotRendered
from grkd.language.examples import data_examples
from grkd.language.models import tokenizer_of
from grkd.recipe import LanguageRecipe, weights_of

_ENCODED = 400  # examples that are tokenised, spread over the data


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of the whole data. prompt_tokens, answer_tokens: means of a sample. items: the sample, as token ids.

    seconds: to read and tokenise one example.
    """

    train: int
    heldout: int
    prompt_tokens: float
    answer_tokens: float
    items: Sequence[Item]
    seconds: float = 0.0


def count(recipe: LanguageRecipe) -> Counts:
    """Read the data, and tokenise a sample of it."""
    begin = time.perf_counter()
    examples = data_examples(recipe, None)
    reading = time.perf_counter() - begin
    sides = [split for split, _ in examples]
    spec = recipe.student if recipe.student.model is not None else weights_of(recipe)
    assert spec is not None
    tokenizer = tokenizer_of(spec)
    stops, system = stop_token_ids(tokenizer), recipe.data.system
    items: list[Item] = []
    begin = time.perf_counter()
    for number, (_, example) in enumerate(random.Random(0).sample(examples, min(_ENCODED, len(examples)))):
        try:
            prompt_ids = encode_prompt(tokenizer, example, system=system)
            answer = encode_response(tokenizer, _answered(example), stop_ids=stops, system=system)
        except NotRendered:
            continue
        answer = answer if example.answers else [stops[0]] * recipe.responses.max_new_tokens
        limited = answer[: recipe.responses.max_new_tokens]
        items.append(Item(id=example.id, prompt_ids=prompt_ids, response_ids=limited, index=number))
    most = max(1, len(items))
    return Counts(
        train=sides.count("train"),
        heldout=sides.count("heldout"),
        prompt_tokens=sum(len(one.prompt_ids) for one in items) / most,
        answer_tokens=sum(len(one.response_ids) for one in items) / most,
        items=items,
        seconds=reading / max(1, len(examples)) + (time.perf_counter() - begin) / max(1, min(_ENCODED, len(examples))),
    )


def _answered(example: Example) -> Example:
    answer = example.answers[0] if example.answers else "-"
    return replace(example, completion=answer, responses=None, scores=None)
