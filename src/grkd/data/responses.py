"""The text of a response as a chat template writes it behind its prompt."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from grkd.data.conversation import REASONING, Message, Messages, message_of
from grkd.data.prompts import Example
from grkd.data.template import NotRendered, find, knows_tags, render, styles
from grkd.data.thoughts import TAGS, Content, content_of, prompt_tail

# Stand for control tokens that a completion spells, while the template is at work: private use, so in no real text.
_OPEN, _CLOSE, _FILLER = "\ue000", "\ue001", "\ue002"


def rendered_response(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    messages: Messages,
    prompt: str,
    *,
    stops: Sequence[str],
    control: Sequence[str],
    notes: Counter[str] | None = None,
) -> list[str]:
    """The completion of the example behind `prompt`, which is the template's text of `messages`, in pieces.

    It ends with the stop token where the template writes one. Pieces with odd numbers spell a control token and are to
    be read as text.

    It is what the template writes of the whole conversation behind the prompt's text. Thoughts: where the prompt opens
    them, the rest of them follows, also where the template drops them from finished turns; where it closes them empty,
    they are left out, and noted. Everything else of the conversation must be as the template writes it.
    Raises NotRendered if it is not.
    """
    message = _without_stop(message_of(example.completion or ""), stops)
    message, literals = _hidden(message, control)
    if any(token in json.dumps(message.get("tool_calls", []), ensure_ascii=False) for token in control):
        raise NotRendered(example, "its tool calls spell a control token")
    if tokenizer.chat_template is None:
        if message.keys() > {"role", "content"}:
            raise NotRendered(example, "its completion has reasoning or tool calls, and there is no chat template")
        return _pieces(message["content"], literals)
    try:
        given = content_of(message)
    except ValueError as error:
        raise NotRendered(example, str(error)) from None
    if given.thoughts is None and any(given.answer.startswith(opened) for opened, _ in TAGS):
        raise NotRendered(example, "its reasoning block is not closed")
    _, _, closed = prompt_tail(prompt)
    if closed and given.thoughts:
        if notes is not None:
            notes["thoughts left out: the template's prompt closes them (chat_template_kwargs may turn them on)"] += 1
        given = Content(answer=given.answer)
        message = {key: value for key, value in message.items() if key not in REASONING} | {"content": given.answer}
    place = _Place(example=example, prompt=prompt, given=given, message=message, stops=stops, control=control)
    return _pieces(place.response(_wholes(tokenizer, example, messages, message)), literals)


def _wholes(
    tokenizer: PreTrainedTokenizerBase, example: Example, messages: Messages, message: Message
) -> list[str | NotRendered]:
    """The whole conversation in every style, or why there is none in it."""
    found: list[str | NotRendered] = []
    for style in styles([*messages, message], tags_known=knows_tags(tokenizer)):
        try:
            found.append(render(tokenizer, example, [*messages, message], style, start_turn=False))
        except NotRendered as error:
            found.append(error)
    return found


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A response and the text of the prompt before it."""

    example: Example
    prompt: str
    given: Content
    message: Message
    stops: Sequence[str]
    control: Sequence[str]

    def response(self, wholes: Sequence[str | NotRendered]) -> str:
        """The response's text, from the first conversation that is the prompt's, continued; else put together."""
        texts = [whole for whole in wholes if isinstance(whole, str)]
        for whole in texts:
            if whole.startswith(self.prompt) and (found := self._continued(whole[len(self.prompt) :])) is not None:
                return found
        start, _, _ = prompt_tail(self.prompt)
        beside = [whole[start:] for whole in texts if whole.startswith(self.prompt[:start])]
        for rest in beside:
            if (found := self._put_back(rest)) is not None:
                return found
        refused = next((whole for whole in wholes if isinstance(whole, NotRendered)), None)
        raise refused if refused is not None and not texts else self._refusal(beside)

    def _continued(self, rest: str) -> str | None:
        """The rest of a conversation, up to the first stop token; None if not all is in it, or a tag is twice."""
        end = self._end(rest)
        if end is None:
            return None
        _, tags, closed = prompt_tail(self.prompt)
        head = rest[:end].replace(self.given.answer, "").replace(self.given.thoughts or "", "")
        opened = sum(head.count(known) for known, _ in TAGS)
        if opened + (tags is not None) > 1 and not closed:
            return None
        return self._cut(rest, len(rest.rstrip()) if "tool_calls" in self.message else end, end)

    def _put_back(self, rest: str) -> str | None:
        """The response where the template has no thoughts in finished turns.

        They are put back behind a prompt that opens them, or where the completion had them as text. What remains is the
        answer, as the template writes it. None if that is not so.
        """
        given, (_, tags, closed) = self.given, prompt_tail(self.prompt)
        if "tool_calls" in self.message or (given.thoughts is None and not closed):
            return None
        end = _bare(self._words(rest, tags=False), given, tags)
        if end is None:
            return None
        tail = self._cut(rest[end:], 0, 0)
        if closed:
            return given.answer + tail
        if tags is None:
            return None if given.inline is None else given.inline.strip() + tail
        written = given.written.strip().removeprefix(given.tags[0]).replace(given.tags[1], tags[1], 1)
        return (written.lstrip() if self.prompt[-1:].isspace() else written) + tail

    def _refusal(self, beside: Sequence[str]) -> NotRendered:
        _, tags, closed = prompt_tail(self.prompt)
        if not beside:
            reason = "the chat template writes the start of an answer otherwise in a finished turn"
        elif tags is not None and not closed and self.given.thoughts is None:
            reason = "its prompt opens a thought and the completion has none (chat_template_kwargs such as "
            reason += "enable_thinking: false may close it)"
        elif "tool_calls" in self.message:
            reason = "the chat template leaves out its tool calls, or what is beside them"
        elif self.given.thoughts is not None:
            reason = "the chat template leaves out its thoughts or changes its text"
        else:
            reason = "the chat template changes its text"
        return NotRendered(self.example, reason)

    def _end(self, rest: str) -> int | None:
        """Where the response's own text ends; None if a part of it is not there."""
        rest = self._words(rest)
        end = 0
        calls = [call["function"] for call in self.message.get("tool_calls", ())]
        for part in (self.given.thoughts, self.given.answer, *(call["name"] for call in calls)):
            found = find(part or "", rest, end)
            if found is None:
                return None
            end = found
        for call in calls:
            values = call["arguments"].values() if isinstance(call["arguments"], dict) else [call["arguments"]]
            ends = [find(value, rest) for value in values if isinstance(value, str)]
            if None in ends:
                return None
            end = max([end, *(found for found in ends if found is not None)])
        return end

    def _words(self, rest: str, *, tags: bool = True) -> str:
        """The text with fillers for control tokens and tags of thoughts, so that nothing is found inside of one."""
        given = f"{self.given.thoughts} {self.given.answer}"
        marks = [*self.stops, *self.control, *(tag for pair in TAGS for tag in pair if tags and tag not in given)]
        for mark in sorted((mark for mark in marks if mark.strip()), key=len, reverse=True):
            rest = rest.replace(mark, _FILLER * len(mark))
        return rest

    def _cut(self, rest: str, otherwise: int, end: int) -> str:
        """The rest up to the end of the first stop token behind `end`; if there is none, up to `otherwise`."""
        found = [(place, len(stop)) for stop in self.stops if (place := rest.find(stop, end)) >= 0]
        return rest[: sum(min(found))] if found else rest[:otherwise]


def _bare(rest: str, given: Content, tags: tuple[str, str] | None) -> int | None:
    """Where the answer ends in a finished turn that holds the answer, and perhaps the thoughts, and nothing else."""
    thoughts = re.escape(given.thoughts or "")
    opened, closed = (re.escape(tag) for tag in tags or given.tags)
    head = re.compile(rf"\s*(({opened}\s*)*({thoughts})?\s*{closed})?\s*")
    place = rest.find(given.answer)
    while place >= 0:
        if head.fullmatch(rest[:place]):
            return place + len(given.answer)
        place = rest.find(given.answer, place + 1)
    return None


def _without_stop(message: Message, stops: Sequence[str]) -> Message:
    """The message without a stop token spelt at its very end, which ends the turn and is no text."""
    content = message["content"].rstrip()
    stop = next((stop for stop in stops if stop.strip() and content.endswith(stop) and content != stop), None)
    return message if stop is None else {**message, "content": content.removesuffix(stop)}


def _hidden(message: Message, control: Sequence[str]) -> tuple[Message, list[str]]:
    """The message with the control tokens that it spells replaced by stand-ins, and these tokens."""
    literals = [token for token in sorted(control, key=len, reverse=True) if token.strip()]
    names = [name for name in ("content", "reasoning_content") if name in message]
    found: list[str] = []
    if not any(token in message[name] for token in literals for name in names):
        return message, found
    pattern = re.compile("|".join(map(re.escape, literals)))

    def stand_in(match: re.Match[str]) -> str:
        found.append(match.group())
        return f"{_OPEN}{len(found) - 1}{_CLOSE}"

    return {**message, **{name: pattern.sub(stand_in, message[name]) for name in names}}, found


def _pieces(text: str, literals: list[str]) -> list[str]:
    parts = re.split(f"{_OPEN}(\\d+){_CLOSE}", text)
    return [literals[int(part)] if number % 2 else part for number, part in enumerate(parts)]
