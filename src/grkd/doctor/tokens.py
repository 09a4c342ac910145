"""Whether tokenizers, templates and configs agree: vocabulary, stop tokens, padding, BOS, thoughts, control tokens."""

from collections.abc import Iterator
from typing import Any

from grkd.data.chat import prompt_text, stop_token_ids
from grkd.data.language import vocabulary_size
from grkd.data.template import NotRendered, knows_tags
from grkd.doctor.finding import Finding, error, note, warning
from grkd.doctor.sides import Sides, generation_config
from grkd.errors import UserError
from grkd.language.examples import from_data
from grkd.recipe import weights_of

_FEW = 8
_THOUGHTS = 1024  # tokens that thoughts need at least


def look_at_tokens(sides: Sides) -> Iterator[Finding]:
    """Findings that need no weights. Raises UserError for a student without any stop token."""
    yield from _template(sides)
    yield from _stops(sides)
    yield from _padding(sides)
    yield from _begins(sides)
    yield from _thoughts(sides)
    yield from _control_tokens(sides)
    for side, config, tokenizer in (
        ("student", sides.config, sides.tokenizer),
        ("teacher", sides.teacher_config, sides.teacher_tokenizer),
    ):
        rows = None if config is None else getattr(config.get_text_config(decoder=True), "vocab_size", None)
        if tokenizer is not None and isinstance(rows, int) and rows < (size := vocabulary_size(tokenizer)):
            text = f"the {side}'s head has {rows} rows, its tokenizer ids up to {size - 1}"
            yield error("head", text, "use the tokenizer that belongs to the model, or resize its embeddings")


def _template(sides: Sides) -> Iterator[Finding]:
    """A chat template that is missing, or two that write conversations differently."""
    talks = any(example.messages is not None for _, example in sides.examples)
    if sides.tokenizer.chat_template is None:
        if talks:
            text = "the data have messages, and the student's tokenizer has no chat template"
            yield error("template", text, "name an instruction-tuned student, or give it the teacher's template")
        elif sides.teacher_tokenizer is not None and sides.teacher_tokenizer.chat_template is not None:
            text = "the teacher is a chat model, the student's tokenizer has no chat template: prompts are plain text"
            yield warning("template", text, "save the teacher's chat template with the student's tokenizer")
        return
    own = sides.teacher_tokenizer
    if own is None or own is sides.tokenizer or not sides.shared or own.chat_template is None:
        return
    for _, example in sides.examples[:_FEW]:
        try:
            one, other = (
                prompt_text(each, example, system=sides.recipe.data.system) for each in (own, sides.tokenizer)
            )
        except (NotRendered, UserError):
            continue
        if one != other:
            text = "teacher and student write the same conversation differently; the student's text is used for both"
            yield warning("template", text, "give the student's tokenizer the teacher's chat template")
            return


def _stops(sides: Sides) -> Iterator[Finding]:
    recipe, weights = sides.recipe, weights_of(sides.recipe)
    try:
        own = sides.stop_ids
    except UserError as mistake:
        yield error("stop", str(mistake), "set the tokenizer's eos_token to the token that ends an answer")
        raise
    for side, tokenizer, spec in (
        ("student", sides.tokenizer, recipe.student),
        ("teacher", sides.teacher_tokenizer, weights),
    ):
        if tokenizer is None or spec is None or (side == "teacher" and tokenizer is sides.tokenizer):
            continue
        listed = _ids(getattr(generation_config(spec), "eos_token_id", None))
        ends = stop_token_ids(tokenizer, None)
        if listed and not set(listed) & set(ends):
            text = (
                f"the {side}'s generation config stops at {_words(tokenizer, listed)}, its tokenizer and template at "
            )
            yield warning(
                "stop", text + _words(tokenizer, ends), "set eos_token_id to the template's end-of-turn token"
            )
        elif listed and set(ends) - set(listed):
            missing = _words(tokenizer, sorted(set(ends) - set(listed)))
            text = f"the {side}'s generation config does not list {missing}, at which its tokenizer or template stops"
            yield note("stop", text, "no action for grkd, which adds it; other programs would not stop there")
    if sides.shared and sides.teacher_tokenizer is not None and weights is not None:
        of_teacher = stop_token_ids(sides.teacher_tokenizer, generation_config(weights))
        if not set(of_teacher) & set(own):
            text = f"the teacher ends answers with {_words(sides.tokenizer, of_teacher)}, the student with "
            text += _words(sides.tokenizer, own)
            yield warning("stop", text, "use one chat template and one eos_token for both")


def _padding(sides: Sides) -> Iterator[Finding]:
    pad, rows = sides.tokenizer.pad_token_id, getattr(sides.config, "vocab_size", None)
    configured = getattr(sides.config, "pad_token_id", None)
    if pad is not None and isinstance(rows, int) and pad >= rows:
        text = f"the padding token has the id {pad}, the student's head {rows} rows"
        yield error(
            "padding", text, "choose a padding token in the model's vocabulary, such as the end-of-sequence token"
        )
    elif pad is None:
        yield note(
            "padding", "the student's tokenizer has no padding token; a stop token is used", "no action for grkd"
        )
    elif isinstance(configured, int) and configured != pad:
        text = f"the student's config pads with {configured}, its tokenizer with {pad}"
        yield warning("padding", text, "set pad_token_id in config.json to the tokenizer's")


def _begins(sides: Sides) -> Iterator[Finding]:
    tokenizer, bos = sides.tokenizer, sides.tokenizer.bos_token_id
    configured = getattr(sides.config, "bos_token_id", None)
    if bos is not None and isinstance(configured, int) and configured != bos:
        text = f"the student's config begins with {configured}, its tokenizer with {bos}"
        yield warning("bos", text, "use the tokenizer that belongs to the model, or correct bos_token_id")
    if bos is None or tokenizer.chat_template is None or not sides.examples:
        return
    try:
        text = prompt_text(tokenizer, sides.examples[0][1], system=sides.recipe.data.system)
    except (NotRendered, UserError):
        return
    if list(tokenizer(text)["input_ids"])[:2] == [bos, bos]:
        words = "template and tokenizer both write a BOS; grkd keeps one, a program that tokenises the text keeps two"
        yield warning("double bos", words, "set add_bos_token: false in tokenizer_config.json, or remove it")


def _thoughts(sides: Sides) -> Iterator[Finding]:
    recipe, template = sides.recipe, str(sides.tokenizer.chat_template)
    if dropped := sum(count for text, count in sides.notes.items() if "thought" in text):
        text = f"the reasoning of {dropped} answers is dropped, because the prompt closes it"
        yield warning("thinking", text, "data.chat_template_kwargs: {enable_thinking: true} keeps them")
    if not knows_tags(sides.tokenizer) or "enable_thinking" not in template:
        return
    if "enable_thinking" in recipe.data.chat_template_kwargs:
        return
    if from_data(recipe.responses) and not _any_thoughts(sides):
        text = "the template lets the model reason first, and the answers in the data have no reasoning"
        yield warning("thinking", text, "data.chat_template_kwargs: {enable_thinking: false}")
    elif not from_data(recipe.responses) and recipe.responses.max_new_tokens < _THOUGHTS:
        text = f"the model reasons first, and responses end after {recipe.responses.max_new_tokens} tokens"
        do = f"data.chat_template_kwargs: {{enable_thinking: false}}, or max_new_tokens of {_THOUGHTS} or more"
        yield warning("thinking", text, do)


def _any_thoughts(sides: Sides) -> bool:
    answers = [answer for _, example in sides.examples for answer in example.answers]
    return any("reasoning_content" in answer or "</think" in str(answer) for answer in answers)


def _control_tokens(sides: Sides) -> Iterator[Finding]:
    """Texts that were already written by a template, or that spell a control token."""
    added = sides.tokenizer.added_tokens_decoder.items()
    marks = {token.content for number, token in added if token.special and len(token.content) > 2}
    marks -= {str(sides.tokenizer.unk_token)}
    found = [
        next((mark for mark in marks if mark in message["content"]), None)
        for _, example in sides.examples
        for message in example.conversation[-1:]
    ]
    if count := sum(mark is not None for mark in found):
        mark = next(mark for mark in found if mark is not None)
        text = (
            f"{count} prompts contain a control token such as {mark}; they may already be rendered by a chat template"
        )
        yield warning("control tokens", text, "give the original messages; grkd applies the template")


def _ids(listed: Any) -> list[int]:
    return [listed] if isinstance(listed, int) else list(listed or [])


def _words(tokenizer: Any, ids: list[int]) -> str:
    return ", ".join(map(str, tokenizer.convert_ids_to_tokens(ids)))
