"""A language model in this process as a teacher of lists: asked about one candidate, or for a permutation."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from grkd.data.chat import stop_token_ids
from grkd.data.thoughts import opening
from grkd.endpoint.client import Messages
from grkd.errors import UserError
from grkd.lists.context import RankContext, pairs_of, texts_of
from grkd.lists.listwise import answer_tokens, note_unread, permuted
from grkd.models.generate import generate_responses
from grkd.models.load import context_length, load_language_model, load_tokenizer
from grkd.run.device import dtype
from grkd.teacher.annotator import next_logits

PROMPT = (
    "Document: {document}\n\nQuestion: {query}\n\nDoes the document answer the question? Answer Yes or No.\nAnswer:"
)


def yes_or_no_margins(context: RankContext, model: str) -> list[float]:
    """log p(Yes) - log p(No) as the next token behind the prompt; a long document is cut at its end."""
    teacher = context.recipe.teacher
    tokenizer, network = _loaded(context, model)
    before, yes, no = yes_and_no(tokenizer, model)
    most = min(teacher.max_tokens, context_length(network) or teacher.max_tokens) - len(before)
    prompts = [[*_prompt(tokenizer, teacher.prompt or PROMPT, *pair, most=most), *before] for pair in pairs_of(context)]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    scores = [0.0] * len(prompts)
    for start in range(0, len(order), teacher.batch_size):
        part = order[start : start + teacher.batch_size]
        logits = next_logits(network, [prompts[number] for number in part])
        margins = (logits[:, yes].float() - logits[:, no].float()).cpu().tolist()
        for number, margin in zip(part, margins, strict=True):
            scores[number] = margin
    return scores


def yes_and_no(tokenizer: Any, model: str) -> tuple[list[int], int, int]:
    """(ids between prompt and answer, the first id of Yes that is not that of No, and that of No).

    Between them: a tokenizer that writes the space of a word as a token by itself begins both answers with it.
    Raises UserError for a tokenizer that writes both alike.
    """
    start, yes, no = (
        tokenizer(f"Answer:{word}", add_special_tokens=False)["input_ids"] for word in ("", " Yes", " No")
    )
    place = next((number for number, (one, other) in enumerate(zip(yes, no, strict=False)) if one != other), None)
    if place is None:
        raise UserError(f"teacher.models: {model}: its tokenizer writes Yes and No alike; name another model")
    return list(yes[len(start) : place]), yes[place], no[place]


def written_orders(context: RankContext, model: str) -> list[float]:
    """Minus the place of every candidate in the permutation that the model writes, greedily; see listwise.permuted.

    Raises UserError for a window whose prompt and answer go beyond the model's context.
    """
    teacher = context.recipe.teacher
    tokenizer, network = _loaded(context, model)
    longest, stop_ids = context_length(network), stop_token_ids(tokenizer, network.generation_config)
    pad = tokenizer.pad_token_id

    def complete(prompts: Sequence[Messages]) -> list[str]:
        asked = [_chat(tokenizer, messages) for messages in prompts]
        most, answer = max(map(len, asked)), answer_tokens(teacher.window)
        if longest is not None and most + answer > longest:
            raise UserError(
                f"teacher.models: {model}: a prompt of {most} tokens and an answer of {answer} are beyond its context "
                f"of {longest}; lower teacher.window (it is {teacher.window})"
            )
        # Settings for chats that a model publishes, such as Qwen's repetition penalty, would change the order.
        written = generate_responses(
            network,
            asked,
            max_new_tokens=answer,
            temperature=0.0,
            top_p=1.0,
            stop_ids=stop_ids,
            pad_token_id=stop_ids[0] if pad is None else pad,
            seed=0,
            batch_size=teacher.batch_size,
        )
        found = [""] * len(prompts)
        for response in chain.from_iterable(written):
            text = tokenizer.decode(response.response_ids, skip_special_tokens=True)
            # A template may open the thoughts: without its tag they would pass for the answer if they are cut.
            found[response.index] = opening(tokenizer.decode(asked[response.index])) + text
        return found

    orders, unread = permuted(texts_of(context), complete, window=teacher.window, stride=teacher.stride)
    note_unread(unread)
    places = [{candidate: place for place, candidate in enumerate(order)} for order in orders]
    return [-float(own[candidate]) for own in places for candidate in range(len(own))]


def _loaded(context: RankContext, model: str) -> tuple[Any, Any]:
    """Tokenizer and network, in 16 bits on a GPU. Raises UserError for a model that cannot be opened."""
    network: Any = load_language_model(model, dtype=dtype("auto", context.device))
    return load_tokenizer(model), network.to(context.device)


def _chat(tokenizer: Any, messages: Messages) -> list[int]:
    """Token ids of a conversation; of its text alone if the tokenizer has no template."""
    if tokenizer.chat_template is None:
        return list(tokenizer(messages[-1]["content"] + "\n")["input_ids"])
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(ids["input_ids"])


def _prompt(tokenizer: Any, prompt: str, query: str, document: str, *, most: int) -> list[int]:
    """Token ids of the prompt, the document shortened until they are `most` at the most."""

    def encoded(text: str) -> list[int]:
        filled = prompt.replace("{query}", query).replace("{document}", text)
        return list(tokenizer(filled)["input_ids"])

    ids = encoded(document)
    while len(ids) > most and document:
        document = document[: max(0, int(len(document) * most / len(ids)) - 8)]
        ids = encoded(document)
    return ids
