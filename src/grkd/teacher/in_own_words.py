"""A conversation in a teacher's own tokens, for a teacher whose vocabulary is not the student's."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from grkd.data.chat import encode_prompt, encode_response
from grkd.data.language import Item
from grkd.data.prompts import Example
from grkd.data.template import NotRendered
from grkd.errors import UserError


def item_in_own_words(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    text: str,
    *,
    stop_ids: Sequence[int],
    finished: bool = True,
    system: str | None = None,
    context: int | None = None,
) -> Item:
    """Prompt and response as the teacher's tokens.

    example: the prompt, with the response as its completion. text: the response as text, of which the likelihood is
    asked if the teacher's template cannot write it (such as a thought without an end).
    finished: the student ended it by a stop token; without one, the teacher's is left out as well.
    Raises UserError for a conversation over the teacher's `context`, in its tokens.
    """
    try:
        response_ids = encode_response(tokenizer, example, stop_ids=list(stop_ids), system=system)
    except NotRendered:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        response_ids = [*ids, stop_ids[0]]
    if not finished and len(response_ids) > 1:
        response_ids = response_ids[:-1]
    prompt_ids = encode_prompt(tokenizer, example, system=system)
    length = len(prompt_ids) + len(response_ids)
    if context is not None and length > context:
        raise UserError(
            f"teacher: prompt and response {example.id} are {length} of its tokens, its context is {context}; "
            "shorten prompts or responses (max_prompt_tokens, max_new_tokens)"
        )
    return Item(id=example.id, prompt_ids=prompt_ids, response_ids=response_ids)
