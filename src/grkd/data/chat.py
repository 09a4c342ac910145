"""From an example to token ids, through the tokenizer's chat template, and from ids to text.

Token ids made here (or sampled) are what is trained on; text is never tokenised a second time.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain
from typing import Any

from transformers import PreTrainedTokenizerBase

from grkd.data.conversation import message_of
from grkd.data.prompts import Example
from grkd.data.responses import rendered_response
from grkd.data.template import NotRendered, Style, rendered_prompt
from grkd.data.thoughts import TAGS, of_channels, opening
from grkd.errors import UserError

_TAIL = 16  # tokens at the end of a prompt, in which it may open a thought


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Any = None) -> list[int]:
    """Ids that end a response: the tokenizer's eos, the generation config's eos ids, the chat template's end of a turn.

    The tokenizer's eos comes first where it has one. The template's own end of turn is the first special token after
    an assistant's text; it is added because some published generation configs leave it out.
    Raises UserError if there is none at all.
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
    Raises UserError for messages where the tokenizer has no template, and NotRendered (a UserError) for a template that
    refuses the messages or leaves a part of them out.
    """
    return _ids(tokenizer, prompt_text(tokenizer, example, system=system), special=tokenizer.chat_template is None)


def encode_response(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    *,
    stop_ids: list[int],
    system: str | None = None,
    notes: Counter[str] | None = None,
) -> list[int]:
    """Token ids of the example's completion as they follow encode_prompt's, with one stop token, at the end.

    encode_prompt's ids and these are the head of the ids of the conversation that the template writes; what it writes
    after the stop token (a newline, say) is left out. stop_ids[0] is appended where the template writes no stop token,
    and where there is no template. A completion that spells a control token is learnt as text.
    Thoughts: what the prompt's end has of them is not written twice; see `rendered_response`. notes: counts what was
    left out of completions, in words.
    Raises ValueError for an example without a completion, what encode_prompt raises, and NotRendered where the template
    writes the completion otherwise, so that the two together would be another conversation.
    """
    if example.completion is None:
        raise ValueError(f"example {example.id!r} has no completion")
    text = prompt_text(tokenizer, example, system=system)
    plain = tokenizer.chat_template is None
    stops = _literals(tokenizer, stop_ids)
    meant = {tokenizer.unk_token, *chain(*TAGS)}  # tags of thoughts are special here and there
    control = [token for token in _literals(tokenizer, _special_ids(tokenizer)) if token not in meant]
    turns = example.turns(system)
    pieces = rendered_response(tokenizer, example, turns, text, stops=stops, control=control, notes=notes)
    prompt_ids = _ids(tokenizer, text, special=plain)
    whole_ids = _ids_of_pieces(tokenizer, [text + pieces[0], *pieces[1:]], special=plain)
    if whole_ids is None:
        raise NotRendered(example, "the completion spells a control token that the tokenizer cannot write as text")
    if whole_ids[: len(prompt_ids)] == prompt_ids:
        ids = whole_ids[len(prompt_ids) :]
    elif plain:  # a token spans the border
        ids = _ids_of_pieces(tokenizer, pieces, special=False) or []
    else:
        raise NotRendered(example, "a token spans the end of the prompt and the start of the completion")
    if not ids or ids[-1] not in stop_ids:
        ids = [*ids, stop_ids[0]]
    if not set(stop_ids).isdisjoint(ids[:-1]):
        raise NotRendered(example, "the template ends the turn before the completion does")
    return ids


def prompt_text(tokenizer: PreTrainedTokenizerBase, example: Example, *, system: str | None = None) -> str:
    """The text that encode_prompt turns into ids; raises what it raises."""
    if tokenizer.chat_template is not None:
        return rendered_prompt(tokenizer, example, example.turns(system))
    if example.messages is not None or example.tools:
        raise UserError(
            f"example {example.id!r} has messages, but tokenizer {tokenizer.name_or_path!r} has no chat template; "
            'give "prompt" instead, or an instruction-tuned model'
        )
    return "\n\n".join(part for part in (system, example.prompt) if part)


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stop_ids: Collection[int]) -> str:
    """The text of a response: without the stop token at its end and padding, other special tokens as they are written.

    Markers of channels and tools stay in the text: without them the words on both sides would run together.
    """
    pad = tokenizer.pad_token_id
    kept = list(ids)
    while kept and (kept[-1] in stop_ids or kept[-1] == pad):
        kept.pop()
    return str(tokenizer.decode(kept, skip_special_tokens=False))


def opened_thought(tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int]) -> str:
    """The start of a thought that a prompt ends with, which belongs to the text of the response; empty without one."""
    return opening(str(tokenizer.decode(prompt_ids[-_TAIL:], skip_special_tokens=False)))


def answer_text(text: str) -> str:
    """What a reader or judge sees of a response: the final channel where the text has channels, else all of it."""
    final = of_channels(text)
    return text if final is None else str(final["content"])


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool) -> list[int]:
    """Token ids of a text; a BOS that both the text and the tokenizer write stays once."""
    token_ids = list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    while bos is not None and token_ids[:2] == [bos, bos]:
        token_ids = token_ids[1:]
    # Some tokenizers end every text with eos; a response could not follow it.
    if special and len(token_ids) > 1 and token_ids[-1] == eos and not text.endswith(tokenizer.eos_token):
        token_ids.pop()
    return token_ids


def _ids_of_pieces(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[str], *, special: bool) -> list[int] | None:
    """Ids of a text in pieces, of which every second one spells a control token and is read as text.

    None if a tokenizer has no other ids for it, or would write other text.
    """
    ids = _ids(tokenizer, pieces[0], special=special)
    if len(pieces) == 1:
        return ids
    for number, piece in enumerate(pieces[1:], start=1):
        as_text = bool(number % 2)
        found = tokenizer(piece, add_special_tokens=False, split_special_tokens=as_text, verbose=False)["input_ids"]
        if as_text and not set(found).isdisjoint(_special_ids(tokenizer)):
            return None
        ids = [*ids, *found]
    decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return ids if "".join(pieces[1:]).strip() in decoded else None


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [token for token, added in tokenizer.added_tokens_decoder.items() if added.special]


def _literals(tokenizer: PreTrainedTokenizerBase, ids: Collection[int]) -> list[str]:
    """The tokens as they stand in text."""
    added = tokenizer.added_tokens_decoder
    return [added[token].content if token in added else tokenizer.decode([token]) for token in ids]


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first special token that the chat template writes after an assistant's text, if any."""
    if tokenizer.chat_template is None:
        return None
    answer = "0123456789"
    turns = [{"role": "user", "content": "a"}, message_of(answer)]
    after = None
    for parts in (False, True):  # some templates of models that see take lists of parts alone
        try:
            text = str(tokenizer.apply_chat_template(Style(parts=parts)(turns), tokenize=False))
        except Exception:  # a template that fails is named where a conversation is rendered
            continue
        if answer in text:
            after = text.rpartition(answer)[2]
            break
    if after is None:
        return None
    special = set(_special_ids(tokenizer))
    return next((token for token in _ids(tokenizer, after, special=False) if token in special), None)
