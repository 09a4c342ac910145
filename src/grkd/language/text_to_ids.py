"""A response's text in the student's tokens."""

from typing import Any

from grkd.data.chat import encode_response
from grkd.data.prompts import restored
from grkd.data.template import NotRendered
from grkd.data.thoughts import of_channels
from grkd.language.models import LanguageModels
from grkd.recipe import LanguageRecipe


def student_ids_of(
    models: LanguageModels, recipe: LanguageRecipe, prompt: dict[str, Any], text: str, *, finished: bool
) -> list[int]:
    """Token ids of a response to a prompt's record; none if the student's chat template cannot write it.

    Of a text with channels the final one is the answer and the others are thoughts, if the student's template has a
    place for them. finished: it ended by itself, so that a stop token is its last.
    """
    ids: list[int] = []
    message = of_channels(text)
    forms = [text] if message is None else [message, message["content"]]
    for form in forms:
        try:
            ids = encode_response(
                models.tokenizer,
                restored(prompt, completion=form),
                stop_ids=models.numbers["stop_ids"],
                system=recipe.data.system,
            )
            break
        except NotRendered:
            continue
    if not finished:  # the teacher was cut short: no stop token that it did not write
        ids = ids[:-1]
    return ids[: recipe.responses.max_new_tokens]
