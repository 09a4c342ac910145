"""What a judge is asked, and how its answers are read. VERSION changes with every word of the prompts."""

import re
from collections.abc import Sequence

from grkd.data.conversation import shown
from grkd.rankers._base import Messages

VERSION = 2
_SPEAKERS = {"system": "Instructions", "user": "User", "assistant": "Assistant"}

_MARKED = re.compile(
    r"better[^\w\n]*:"
    r"(?:[^\w\n]*(a|b|tie)\b(?-i:(?!(?<=a)[^\S\n]+[a-z]))|[^\w\n]*\n\W*(a|b|tie)[^\w\n]*(?=\n|$))",
    re.IGNORECASE,
)
_CRITERIA = (
    "Judge which response serves the user better: whether it is correct, does what was asked, is honest and harmless, "
    "and is clear. Length alone is no merit, and neither is the place in which a response stands here."
)
_PAIR = """\
Below are a conversation and two responses to its last message. {criteria}

## Conversation

{conversation}

## Response A

{first}

## Response B

{second}

## Your judgement

Reply with one line and nothing else: "Better: A", "Better: B", or "Better: tie" if neither is better."""
_LIST = """\
Below are a conversation and {n} responses to its last message. {criteria}

## Conversation

{conversation}

{responses}

## Your judgement

Put all {n} responses in order, the best first. Reply with one line and nothing else, such as "Order: {example}"; \
write = in place of > between two responses of which neither is better."""


def pair_prompt(conversation: Messages, first: str, second: str, criteria: str | None) -> Messages:
    text = _PAIR.format(criteria=criteria or _CRITERIA, conversation=_shown(conversation), first=first, second=second)
    return [{"role": "user", "content": text}]


def list_prompt(conversation: Messages, responses: Sequence[str], criteria: str | None) -> Messages:
    listed = "\n\n".join(f"## Response [{at}]\n\n{text}" for at, text in enumerate(responses, start=1))
    text = _LIST.format(
        criteria=criteria or _CRITERIA,
        conversation=_shown(conversation),
        responses=listed,
        n=len(responses),
        example=" > ".join(f"[{at}]" for at in range(len(responses), 0, -1)),
    )
    return [{"role": "user", "content": text}]


def read_pair(reply: str) -> float | None:
    """1 if A is better, 0 if B is, 1/2 for a tie; None for a reply that says none of these.

    The last "Better: ..." counts (a model may think first), or a reply that is the letter alone. On another line than
    "better:" the letter stands alone, and "better: a shorter one" names none: thoughts are no judgement.
    """
    marked = [one or other for one, other in _MARKED.findall(reply)]
    alone = re.fullmatch(r"\W*(a|b|tie)\W*", reply, re.IGNORECASE)
    word = marked[-1] if marked else alone.group(1) if alone else None
    return None if word is None else {"a": 1.0, "b": 0.0, "tie": 0.5}[word.lower()]


def read_list(reply: str, n: int) -> list[int] | None:
    """The tier of each of n responses, 0 the best; None unless the last line with an order names each exactly once."""
    lines = [line for line in reply.splitlines() if re.search(r"\d\s*\]?\s*[>=]", line)]
    if not lines:
        return None
    order = re.sub(r"[\s\[\]*`\".]", "", lines[-1].rpartition(":")[2])
    if not re.fullmatch(r"\d+(?:[>=]\d+)*", order):
        return None
    tiers = [[int(number) for number in tier.split("=")] for tier in order.split(">")]
    if sorted(number for tier in tiers for number in tier) != list(range(1, n + 1)):
        return None
    place = {number: level for level, tier in enumerate(tiers) for number in tier}
    return [place[number] for number in range(1, n + 1)]


def judged_part(reply: str, *, cut: bool) -> str:
    """What of a reply may hold the judgement: of one that the limit of tokens cut, a first line that begins with it."""
    if not cut:
        return reply
    first = reply.strip().partition("\n")[0]
    return first if re.match(r"\W*(?:better|order)\W*:", first, re.IGNORECASE) else ""


def _shown(conversation: Messages) -> str:
    return "\n\n".join(f"{_SPEAKERS.get(turn['role'], turn['role'])}: {shown(turn)}" for turn in conversation)
