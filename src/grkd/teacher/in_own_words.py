"""A conversation in a teacher's own tokens, for a teacher whose vocabulary is not the student's."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from grkd.data.chat import encode_prompt, encode_response
from grkd.data.conversation import read_template_options, read_tools
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


def items_in_own_words(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Any],
    responses: Sequence[Sequence[str]],
    columns: Mapping[str, Sequence[Any]],
    *,
    stop_ids: Sequence[int],
    context: int | None,
) -> list[Item]:
    """Every response of these groups as the teacher's tokens, as rankers give them: prompts as text or messages.

    Columns finished (per response), tools and chat_template_kwargs are read if they are known.
    Raises UserError for text over the teacher's `context`.
    """
    absent = [None] * len(prompts)
    names, finished = columns.get("group", range(len(prompts))), columns.get("finished", absent)
    tools, options = columns.get("tools", absent), columns.get("chat_template_kwargs", absent)
    items = []
    for group, (prompt, texts) in enumerate(zip(prompts, responses, strict=True)):
        asked: dict[str, Any] = {"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}
        where = f"prompt {names[group]}"
        asked["tools"] = read_tools(tools[group], where)
        asked["template_options"] = read_template_options(options[group], where)
        ended = [True] * len(texts) if finished[group] is None else finished[group]
        for place, text in enumerate(texts):
            example = Example(id=f"{names[group]}#{place}", completion=text, **asked)
            own: dict[str, Any] = {"stop_ids": stop_ids, "finished": ended[place], "context": context}
            items.append(item_in_own_words(tokenizer, example, text, **own))
    return items


def items_of_ids(columns: Mapping[str, Sequence[Any]]) -> list[Item]:
    """Every response of groups, from columns prompt_ids and response_ids. Raises UserError without them."""
    if "prompt_ids" not in columns or "response_ids" not in columns:
        raise UserError("ranker log_prob: it needs responses as token ids (columns prompt_ids and response_ids)")
    return [
        Item(id=f"{group}#{place}", prompt_ids=prompt_ids, response_ids=response_ids)
        for group, (prompt_ids, each) in enumerate(zip(columns["prompt_ids"], columns["response_ids"], strict=True))
        for place, response_ids in enumerate(each)
    ]


def means_of_groups(
    teacher: Any,
    prompts: Sequence[Any],
    responses: Sequence[Sequence[str]],
    columns: Mapping[str, Sequence[Any]],
    *,
    stop_ids: Sequence[int],
) -> list[list[float]]:
    """Mean token log-probability of each response of these groups, by what `teacher.scored` says of its ids.

    A teacher that `reads_text` is given prompts and responses in its own tokens, others columns prompt_ids and
    response_ids.
    """
    if teacher.reads_text:
        context, tokenizer = teacher.context, teacher.tokenizer
        items = items_in_own_words(tokenizer, prompts, responses, columns, stop_ids=stop_ids, context=context)
    else:
        items = items_of_ids(columns)
    means = iter(teacher.scored(items)[0])
    return [[next(means) for _ in texts] for texts in responses]
