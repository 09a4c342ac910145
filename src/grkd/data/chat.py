"""From an example to token ids, through the tokenizer's chat template.

Token ids made here (or sampled) are what is trained on; text is never tokenised a second time.
"""

from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from grkd.data.prompts import Example
from grkd.errors import UserError

Messages = list[dict[str, str]]


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Any = None) -> list[int]:
    """Ids that end a response: the tokenizer's eos, the generation config's eos ids, the chat template's end of a turn.

    The tokenizer's eos comes first where it has one. The template's own end of turn is the first special token after
    an assistant's text; it is added because some published generation configs leave it out.
    Raises UserError where there is none at all.
    """
    configured = getattr(generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list | tuple) else [configured]
    found = dict.fromkeys([tokenizer.eos_token_id, *listed, _end_of_turn(tokenizer)])
    stop_ids = [token for token in found if token is not None]
    if not stop_ids:
        raise UserError(f"tokenizer {tokenizer.name_or_path!r} has no end-of-sequence token; set its eos_token")
    return stop_ids


def encode_prompt(tokenizer: PreTrainedTokenizerBase, example: Example, *, system: str | None = None) -> list[int]:
    """Token ids of the prompt, ready for a response to follow.

    With a chat template: the messages (a prompt's text is one user message) and the start of an assistant turn.
    Without one: the text and the tokenizer's own special tokens at its start.
    system: a system message before the prompt, unless the example has its own; templates that know no system role get
    it at the head of the first user message. There is never more than one BOS.
    Raises UserError for messages where the tokenizer has no template, or a template that refuses the messages.
    """
    return _ids(tokenizer, _prompt_text(tokenizer, example, system), special=tokenizer.chat_template is None)


def encode_response(
    tokenizer: PreTrainedTokenizerBase, example: Example, *, stop_ids: list[int], system: str | None = None
) -> list[int]:
    """Token ids of the example's completion as they follow encode_prompt's, with one stop token, at the end.

    They are cut from the whole conversation as the template writes it; what the template puts after the stop token (a
    newline, say) is left out. Where the template changes the text or writes no stop token, the completion is
    tokenised by itself and stop_ids[0] is appended.
    Raises ValueError for an example without a completion, and what encode_prompt raises.
    """
    if example.completion is None:
        raise ValueError(f"example {example.id!r} has no completion")
    prompt_text = _prompt_text(tokenizer, example, system)
    plain = tokenizer.chat_template is None
    if plain:
        whole_text = prompt_text + example.completion
    else:
        turns = [*_messages(example, system), {"role": "assistant", "content": example.completion}]
        whole_text = _rendered(tokenizer, example, turns, start_turn=False)
    if whole_text.startswith(prompt_text) and example.completion.strip() in whole_text[len(prompt_text) :]:
        prompt_ids = _ids(tokenizer, prompt_text, special=plain)
        response_ids = _ids(tokenizer, whole_text, special=plain, keep_end=True)
        if response_ids[: len(prompt_ids)] == prompt_ids:
            response_ids = response_ids[len(prompt_ids) :]
        else:  # a token spans the border
            response_ids = _ids(tokenizer, whole_text[len(prompt_text) :], special=False)
        if plain or not set(stop_ids).isdisjoint(response_ids):
            return _stopped(response_ids, stop_ids)
    return _stopped(_ids(tokenizer, example.completion, special=False), stop_ids)


def _stopped(token_ids: list[int], stop_ids: list[int]) -> list[int]:
    """The tokens up to the first stop token, which is appended where there is none."""
    for position, token in enumerate(token_ids):
        if token in stop_ids:
            return token_ids[: position + 1]
    return [*token_ids, stop_ids[0]]


def _messages(example: Example, system: str | None) -> Messages:
    messages = example.messages or [{"role": "user", "content": example.prompt or ""}]
    if system is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def _prompt_text(tokenizer: PreTrainedTokenizerBase, example: Example, system: str | None) -> str:
    if tokenizer.chat_template is not None:
        return _rendered(tokenizer, example, _messages(example, system), start_turn=True)
    if example.messages is not None:
        raise UserError(
            f"example {example.id!r} has messages, but tokenizer {tokenizer.name_or_path!r} has no chat template; "
            'give "prompt" instead, or an instruction-tuned model'
        )
    return "\n\n".join(part for part in (system, example.prompt) if part)


def _rendered(tokenizer: PreTrainedTokenizerBase, example: Example, messages: Messages, *, start_turn: bool) -> str:
    """The conversation as the template writes it, the system text in the first user message where it must be."""
    options = {"tokenize": False, "add_generation_prompt": start_turn}
    has_system = messages[0]["role"] == "system"
    try:
        text = str(tokenizer.apply_chat_template(messages, **options))
        if not has_system or messages[0]["content"].strip() in text:
            return text
    except TemplateError as error:
        if not has_system:
            raise _refused(example, error) from None
    try:  # the template refuses a system role, or leaves it out without a word
        return str(tokenizer.apply_chat_template(_system_in_user(messages), **options))
    except TemplateError as error:
        raise _refused(example, error) from None


def _refused(example: Example, error: TemplateError) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(f"example {example.id!r}: the chat template refuses its messages ({reason}); mend or drop it")


def _system_in_user(messages: Messages) -> Messages:
    system, *rest = messages
    first = next((index for index, message in enumerate(rest) if message["role"] == "user"), None)
    if first is None:
        return rest
    content = f"{system['content']}\n\n{rest[first]['content']}"
    return [*rest[:first], {"role": "user", "content": content}, *rest[first + 1 :]]


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool, keep_end: bool = False) -> list[int]:
    """Token ids of a text; a BOS that both the text and the tokenizer write stays once."""
    token_ids = list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    while bos is not None and token_ids[:2] == [bos, bos]:
        token_ids = token_ids[1:]
    # Some tokenizers end every text with eos; a response could not follow it.
    if (
        special
        and not keep_end
        and len(token_ids) > 1
        and token_ids[-1] == eos
        and not text.endswith(tokenizer.eos_token)
    ):
        token_ids.pop()
    return token_ids


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first special token that the chat template writes after an assistant's text, if any."""
    if tokenizer.chat_template is None:
        return None
    answer = "0123456789"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except TemplateError:
        return None
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    after = _ids(tokenizer, text.rpartition(answer)[2], special=False)
    return next((token for token in after if token in special), None)
