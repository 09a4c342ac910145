"""Conversations as a chat template writes them, checked: what a template leaves out is found, not learnt around."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from jinja2.exceptions import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from grkd.data.conversation import REASONING, Message, Messages
from grkd.data.prompts import Example
from grkd.data.thoughts import TAGS, content_of
from grkd.errors import UserError


class NotRendered(UserError):
    """A conversation that the chat template cannot write as it is. reason: the same words for all of a kind."""

    def __init__(self, example: Example, reason: str) -> None:
        super().__init__(f"example {example.id!r}: {reason}; change or drop it")
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Style:
    """One way to hand messages to a template. Templates differ in which of them they take.

    reasoning: where the last message's thoughts are: as "given", in a field of this name, or "inline" in the text.
    null: empty content beside tool calls is None.
    arguments_as_text: arguments of tool calls are JSON text instead of an object.
    parts: content is a list of text parts.
    system: in its "own" role; "system": a developer's too; "user": at the head of the first user message.
    """

    reasoning: str = "given"
    null: bool = False
    arguments_as_text: bool = False
    parts: bool = False
    system: str = "own"

    def __call__(self, messages: Messages) -> Messages:
        *before, last = self._placed(messages)
        return [self._message(message) for message in (*before, self._with_thoughts(last))]

    def _with_thoughts(self, message: Message) -> Message:
        if (
            self.reasoning == "given"
            or message["role"] != "assistant"
            or (told := content_of(message)).thoughts is None
        ):
            return message
        rest = {key: value for key, value in message.items() if key not in REASONING}
        if self.reasoning == "inline":
            return {**rest, "content": told.written}
        return {**rest, "content": told.answer, self.reasoning: told.thoughts}

    def _placed(self, messages: Messages) -> Messages:
        if self.system == "own":
            return messages
        if self.system == "system":
            return [
                {**message, "role": "system"} if message["role"] == "developer" else message for message in messages
            ]
        system = [message["content"] for message in messages if message["role"] in ("system", "developer")]
        rest = [message for message in messages if message["role"] not in ("system", "developer")]
        first = next((place for place, message in enumerate(rest) if message["role"] == "user"), None)
        if first is None:
            return rest
        content = "\n\n".join([*system, rest[first]["content"]])
        return [*rest[:first], {**rest[first], "content": content}, *rest[first + 1 :]]

    def _message(self, message: Message) -> Message:
        given = {key: value for key, value in message.items() if key != "weight"}
        if self.null and not given["content"] and "tool_calls" in given:
            given["content"] = None
        if self.arguments_as_text and "tool_calls" in given:
            given["tool_calls"] = [_with_text(call) for call in given["tool_calls"]]
        if self.parts and given["content"] is not None:
            given["content"] = [{"type": "text", "text": given["content"]}]
        return given


def styles(messages: Messages, *, tags_known: bool = False) -> Iterator[Style]:
    """The ways that make a difference for these messages, the usual ones first.

    tags_known: the template knows tags of thoughts, so thoughts of a field may be written inside the text.
    """
    last = messages[-1]
    thoughts = last["role"] == "assistant" and content_of(last).thoughts is not None
    ways = ("given", *REASONING, *(("inline",) if tags_known else ())) if thoughts else ("given",)
    calls = any("tool_calls" in message for message in messages)
    roles = {message["role"] for message in messages}
    systems = ("own", *(("system",) if "developer" in roles else ()), "user")
    for parts, system, null, text, reasoning in product(
        (False, True),
        systems if roles & {"system", "developer"} else ("own",),
        (False, True) if calls else (False,),
        (False, True) if calls else (False,),
        ways,
    ):
        yield Style(reasoning=reasoning, null=null, arguments_as_text=text, parts=parts, system=system)


def knows_tags(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template speaks of tags of thoughts."""
    return any(closed in str(tokenizer.chat_template) for _, closed in TAGS)


def render(
    tokenizer: PreTrainedTokenizerBase, example: Example, messages: Messages, style: Style, *, start_turn: bool
) -> str:
    """The template's text; raises UserError for a template that is broken, NotRendered for one that refuses this."""
    named = f"chat template of {tokenizer.name_or_path or 'the tokenizer'!r}"
    templates = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates:
        names = ", ".join(templates)
        raise UserError(f"{named}: it has only named templates ({names}) and none is the default; name one default")
    try:
        text = tokenizer.apply_chat_template(
            style(messages),
            tools=example.tools,
            tokenize=False,
            add_generation_prompt=start_turn,
            **(example.template_options or {}),
        )
    except TemplateSyntaxError as error:
        raise UserError(f"{named} is not valid ({_short(error)}); repair it") from None
    except Exception as error:  # templates are programs: they raise anything
        words = _short(error)
        kind = "" if type(error).__name__ == "TemplateError" else f"{type(error).__name__}: "
        raise NotRendered(example, f"the {named} refuses the messages ({kind}{words})") from None
    if style.parts and "{'type': 'text'" in text:  # a template that takes text alone, and prints the list
        raise NotRendered(example, f"the {named} does not accept lists of text parts")
    if not str(text).strip():
        raise UserError(f"{named} gives empty text (example {example.id!r}); repair it or choose another tokenizer")
    return str(text)


def rendered_prompt(tokenizer: PreTrainedTokenizerBase, example: Example, messages: Messages) -> str:
    """The text before a response, in the first style in which all that messages and tools say is in it.

    Earlier thoughts may be left out, as most templates do. Raises NotRendered if something else is.
    """
    errors: list[NotRendered] = []
    for message in messages:
        try:
            content_of(message)
        except ValueError as error:
            raise NotRendered(example, str(error)) from None
    for style in styles(messages):
        try:
            text = render(tokenizer, example, messages, style, start_turn=True)
            if (missing := _missing(example, messages, text)) is None:
                return text
            raise NotRendered(example, f"the chat template leaves out {missing}")
        except NotRendered as error:
            # Where a system message was in the way, the reason that is left without it.
            if not (style.parts or style.null or style.arguments_as_text):
                errors.append(error)
    raise errors[-1]


def find(text: str, rendered: str, start: int = 0) -> int | None:
    """Where a text ends in what a template wrote, from `start` on: as it is, or as a JSON string has it."""
    wanted = text.strip()
    for form in (wanted, json.dumps(wanted)[1:-1], json.dumps(wanted, ensure_ascii=False)[1:-1]):
        if (place := rendered.find(form, start)) >= 0:
            return place + len(form)
    return None


def _missing(example: Example, messages: Messages, text: str) -> str | None:
    """What of the messages and tools is not in the text, in words."""
    for tool in example.tools or ():
        name = tool.get("function", tool).get("name")
        if isinstance(name, str) and name not in text:
            return "the tools"
    for message in messages:
        content = message["content"]
        if message["role"] == "assistant":
            content = content_of(message).answer
            names = [call["function"]["name"] for call in message.get("tool_calls", ())]
            if any(name not in text for name in names):
                return "the tool calls"
        if find(content, text) is None:
            return f"the text of the {message['role']}"
    return None


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    if isinstance(arguments, str):
        return call
    return {**call, "function": {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}}


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 120 else f"{text[:120]} ..."
