"""Prompts, with what the data has as responses to them, and the part of them that is held out."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from grkd.data.conversation import Answer, Messages, shown
from grkd.errors import UserError
from grkd.files import parse_json

Turns = Literal["all", "last"]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A prompt, as text or as messages (one of the two), and its completion or responses where the data has them.

    completion: text, or the assistant's message where it has reasoning or tool calls. responses: a group, instead of a
    completion. scores: one of each response, higher is better, if known; NaN: no opinion. order_alone: they are made of
    an order (best, order, tiers, chosen and rejected), so that only which is higher means anything. tools,
    template_options: for the chat template. record: id of the record, of which this is one assistant turn; None if it
    is the only one.
    columns: everything in the record but its prompt and pairs, as rankers read it.
    """

    id: str
    messages: Messages | None = None
    prompt: str | None = None
    completion: Answer | None = None
    responses: list[Answer] | None = None
    scores: list[float] | None = None
    order_alone: bool = False
    tools: list[dict[str, Any]] | None = None
    template_options: dict[str, Any] | None = None
    record: str | None = None
    columns: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def answers(self) -> list[Answer]:
        """Everything that the data has as a response to the prompt."""
        return self.responses or ([] if self.completion is None else [self.completion])

    @property
    def conversation(self) -> Messages:
        """The prompt as messages: a prompt's text is one user message."""
        return self.messages or [{"role": "user", "content": self.prompt or ""}]

    def asked(self, system: str | None = None) -> str | Messages:
        """The prompt as rankers read it: text if it is text alone, as reward functions expect; else its turns."""
        return self.prompt if self.prompt is not None and system is None else self.turns(system)

    def turns(self, system: str | None = None) -> Messages:
        """The prompt as messages, behind a system message if it has none of its own."""
        messages = self.conversation
        if system is None or messages[0]["role"] in ("system", "developer"):
            return messages
        return [{"role": "system", "content": system}, *messages]

    def with_template_options(self, options: Mapping[str, Any]) -> "Example":
        """The example with variables of the chat template for all records, which its own come before.

        They are among the columns too: a ranker's teacher of another vocabulary renders the prompt by its own template.
        """
        if not options:
            return self
        whole = {**options, **(self.template_options or {})}
        return replace(self, template_options=whole, columns={**self.columns, "chat_template_kwargs": whole})

    @property
    def shown(self) -> str:
        """The prompt as people read it: its last message."""
        return shown(self.conversation[-1])

    def stored(self) -> dict[str, str | None]:
        """The prompt as two columns of a table, for `restored`."""
        context = {"tools": self.tools, "template_options": self.template_options}
        given = {name: value for name, value in context.items() if value is not None}
        return {"messages": json.dumps(self.conversation), "context": json.dumps(given) if given else None}


def restored(record: dict[str, Any], completion: Answer | None = None) -> Example:
    """The prompt of a table's record; a single user message is text, which needs no chat template."""
    messages = parse_json(record["messages"])
    context = parse_json(record.get("context") or "{}")
    if len(messages) == 1 and messages[0].keys() == {"role", "content"} and messages[0]["role"] == "user":
        return Example(id=record["id"], prompt=messages[0]["content"], completion=completion, **context)
    return Example(id=record["id"], messages=messages, completion=completion, **context)


def split_heldout(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(train, held out): round(fraction * n) of the n different prompts held out, at least one on each side.

    Records with the same prompt, and turns of one conversation, stay on one side. The order of the data is kept; which
    prompts are held out depends on the ids and the seed alone.
    Raises UserError for a fraction outside (0, 1) or fewer than two different prompts.
    """
    if not 0 < fraction < 1:
        raise UserError(f"heldout_fraction must be above 0 and below 1, got {fraction}")
    clusters = _clusters(examples)
    if len(clusters) < 2:
        raise UserError(
            f"holding prompts out needs at least 2 different prompts, got {len(clusters)}; "
            "add prompts or a heldout file"
        )
    count = min(max(round(fraction * len(clusters)), 1), len(clusters) - 1)
    drawn = sorted(clusters, key=lambda ids: hashlib.sha256(f"{seed}:{min(ids)}".encode()).digest())
    heldout = {name for ids in drawn[:count] for name in ids}
    return (
        [example for example in examples if example.id not in heldout],
        [example for example in examples if example.id in heldout],
    )


def shared_prompts(heldout: Iterable[Example], train: Iterable[Example]) -> int:
    """Number of held-out prompts that are also in the training data, turn by turn."""
    known = {_prompt_key(example) for example in train}
    return sum(_prompt_key(example) in known for example in heldout)


def conversation_numbers(prompts: Sequence[Messages]) -> list[int]:
    """For each prompt the index of the first one of its conversation: where one prompt's messages begin another's.

    Such prompts vary together: intervals draw conversations, not turns.
    """
    keys = [[_digest(messages[:end]) for end in range(1, len(messages) + 1)] for messages in prompts]
    whole = {begun[-1] for begun in keys if begun}
    first: dict[str, int] = {}
    return [first.setdefault(next((key for key in begun if key in whole), ""), at) for at, begun in enumerate(keys)]


def _digest(messages: Messages) -> str:
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()


def _clusters(examples: Sequence[Example]) -> list[list[str]]:
    """Ids that belong together: records of one prompt, and turns of one record."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = parent.setdefault(above, above)
            name = parent[name]
        return name

    for example in examples:
        parent[root(f"prompt {_prompt_key(example)}")] = root(f"record {example.record or example.id}")
    found: dict[str, list[str]] = {}
    for example in examples:
        found.setdefault(root(f"record {example.record or example.id}"), []).append(example.id)
    return list(found.values())


def _prompt_key(example: Example) -> str:
    """Digest of what the prompt says; outer white space does not count."""
    turns = [
        [message["role"], message["content"].strip(), message.get("tool_calls")] for message in example.conversation
    ]
    return hashlib.sha256(json.dumps(turns, sort_keys=True).encode()).hexdigest()
