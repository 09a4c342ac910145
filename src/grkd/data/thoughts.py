"""A model's thoughts before its answer: written inside the text between tags, or in a field of their own."""

import re
from dataclasses import dataclass

from grkd.data.conversation import Message

TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought", "<channel|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>(.*?)(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|$)", re.S
)


@dataclass(frozen=True, kw_only=True)
class Content:
    """An answer and the thoughts before it. inline: the whole text as it was given, where it holds the thoughts."""

    answer: str
    thoughts: str | None = None
    inline: str | None = None
    tags: tuple[str, str] = TAGS[0]

    @property
    def written(self) -> str:
        """Thoughts and answer as one text, as given where it was given so."""
        opened, closed = self.tags
        return self.inline or f"{opened}\n{self.thoughts}\n{closed}\n\n{self.answer}"


def content_of(message: Message) -> Content:
    """What an assistant's message says; thoughts in the text count as the message's where it has no field of them.

    Raises ValueError for thoughts in both places that differ.
    """
    content, field = str(message["content"]), message.get("reasoning_content")
    for tags in TAGS:
        opened, closed = tags
        head, found, answer = content.partition(closed)
        # Only at the head: a text that speaks of tags further down is no thought. The prompt may have opened it.
        if not found or not (head.lstrip().startswith(opened) or opened not in head):
            continue
        thoughts = head.lstrip().removeprefix(opened)
        if field is not None and field.strip() != thoughts.strip():
            raise ValueError("they have thoughts in the text and others in a field")
        return Content(answer=answer.strip(), thoughts=thoughts.strip(), inline=content, tags=tags)
    return Content(answer=content.strip(), thoughts=None if field is None else field.strip())


def prompt_tail(prompt: str) -> tuple[int, tuple[str, str] | None, bool]:
    """(where the thoughts that a prompt's end writes begin, their tags, whether they are closed again)."""
    for tags in TAGS:
        opened, closed = (re.escape(tag) for tag in tags)
        if found := re.search(rf"{opened}\s*({closed}\s*)?\Z", prompt):
            return found.start(), tags, found.group(1) is not None
    return len(prompt), None, False


def opening(prompt: str) -> str:
    """The start of a thought that a prompt ends with, which belongs to the text of the response; empty without one."""
    start, tags, closed = prompt_tail(prompt)
    return "" if tags is None or closed else prompt[start:]


def of_channels(text: str) -> Message | None:
    """The message of a text with `<|channel|>` markers: its final channel, the others as thoughts; None without one."""
    parts = _CHANNEL.findall(text)
    final = "".join(words for channel, words in parts if channel == "final").strip()
    if not final:
        return None
    thoughts = "\n\n".join(words.strip() for channel, words in parts if channel != "final" and words.strip())
    message: Message = {"role": "assistant", "content": final}
    return {**message, "reasoning_content": thoughts} if thoughts else message
