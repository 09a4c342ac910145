"""The live teacher in steps that are sampled ahead: few passes for new responses, a cache for stored ones."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd.data.language import Group
from grkd.data.packed import bins
from grkd.kernels.response_log_probs import selected_log_probs
from grkd.objectives import Objective
from grkd.training.rows import moved
from grkd.training.token_rows import item_means, log_probs_of_logits, stored_hidden, teacher_hidden, token_labels

if TYPE_CHECKING:
    from grkd.training.language_rows import LanguageRows

Place = tuple[int, int]  # a batch's number, and the number of a group in it


@dataclass(kw_only=True)
class SampledPart:
    """A micro-batch while its groups are renewed: `asked` are the numbers of the new ones.

    repeated: at an epoch's end: sampled, since all processes take part, but neither ranked nor kept. sampled: by group,
    the log-probabilities with which its tokens were drawn.
    """

    groups: list[Group]
    asked: list[int]
    step: int
    repeated: bool = False
    sampled: dict[int, list[list[float]]] = field(default_factory=dict)
    batch: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PartlyStored:
    """Hidden states of a batch's tokens, of which the stored ones may still be on their way from a cache.

    stored: of the tokens of stored responses; new: of the others. order: of each token of the batch, its row in
    [stored, new]. In a checkpoint it is the plain tensor.
    """

    stored: "Future[Tensor] | Tensor"
    new: Float[Tensor, "new hidden"]
    order: Int[Tensor, " tokens"]

    def result(self) -> Float[Tensor, "tokens hidden"]:
        """All rows in the order of the batch, on the device and in the dtype of `new`."""
        stored = self.stored.result() if isinstance(self.stored, Future) else self.stored
        rows = torch.cat([stored.to(self.new.device, self.new.dtype, non_blocking=True), self.new])
        return rows.index_select(0, self.order)

    def __reduce__(self) -> tuple[Any, ...]:
        return _plain, (self.result(),)


def _plain(rows: Tensor) -> Tensor:
    return rows


def learns_tokens(rows: "LanguageRows", objective: Objective) -> bool:
    """Whether a method learns from the live teacher's scores of tokens."""
    return objective.needs_teacher and "row" in objective.levels and rows.teacher_in_training


@torch.no_grad()
def hear(
    rows: "LanguageRows", parts: Sequence[SampledPart], *, tokens: bool, responses: bool
) -> dict[Place, list[float]]:
    """Ask the live teacher about the parts' responses, in few passes: those of a GPU's small steps wait for the host.

    tokens: its hidden states of every response go into each batch (`teacher_hidden`); where rows.kept has those of
    stored responses, only the new ones are computed. responses: returns the mean log-probability of every new response,
    in nats per token, by (part, group). A teacher whose scores cannot be had from hidden states is not asked: {}.
    """
    head = None if rows.teacher is None else rows.teacher_head()
    if head is None or not (tokens or responses):
        return {}
    asked = [(at, number) for at, part in enumerate(parts) for number in part.asked]
    every = [(at, number) for at, part in enumerate(parts) for number in range(len(part.groups))]
    hidden: dict[Place, Tensor] = {}
    means: dict[Place, list[float]] = {}
    device = parts[0].batch["input_ids"].device
    for places in _passes(rows, parts, every if tokens and rows.kept is None else asked):
        groups = [parts[at].groups[number] for at, number in places]
        batch = moved(rows.collate_all(groups), device)
        with torch.autocast(device.type, enabled=False):  # in its own precision, as in a step and in the cache
            found = teacher_hidden(rows.teacher, batch)
        hidden |= zip(places, found.split(list(map(_tokens, groups))), strict=True)
        if responses:
            values = iter(_means(head, found, batch, rows.vocabulary))
            each = {place: [next(values) for _ in group.items] for place, group in zip(places, groups, strict=True)}
            means |= {place: each[place] for place in asked if place in each}
    if tokens:
        empty = head.weight.new_empty(0, head.weight.shape[1], dtype=rows.teacher.dtype)
        for at, part in enumerate(parts):
            part.batch["teacher_hidden"] = _of_batch(rows, at, part, hidden, empty)
    return means


def _passes(rows: "LanguageRows", parts: Sequence[SampledPart], places: Sequence[Place]) -> Iterator[list[Place]]:
    """The groups of each pass: as many tokens as one of training may have, else as many groups as a micro-batch has."""
    if rows.tokens_per_batch is None:
        most = max(len(part.groups) for part in parts)
        yield from (list(places[start : start + most]) for start in range(0, len(places), most))
        return
    groups = [parts[at].groups[number] for at, number in places]
    sizes = [sum(len(item.prompt_ids) + len(item.response_ids) for item in group.items) for group in groups]
    yield from ([places[number] for number in numbers] for numbers in bins(sizes, rows.tokens_per_batch))


def _tokens(group: Group) -> int:
    return sum(len(item.response_ids) for item in group.items)


def _means(head: Any, hidden: Tensor, batch: dict[str, Any], vocabulary: int) -> list[float]:
    """Mean log-probability of each response of a batch."""
    labels = token_labels(batch)
    if head.scale == 1.0:
        found = selected_log_probs(
            hidden, head.weight, labels, bias=head.bias, softcap=head.softcap, vocabulary=vocabulary
        )
    else:
        found = log_probs_of_logits(head(hidden)[:, :vocabulary], labels)
    return [float(value) for value in item_means(found, batch["response_mask"]).tolist()]


def _of_batch(
    rows: "LanguageRows", at: int, part: SampledPart, hidden: dict[Place, Tensor], empty: Tensor
) -> Tensor | PartlyStored:
    """Hidden states of a batch's tokens: of its groups that were heard just now, and of the others from the cache."""
    stored = [number for number in range(len(part.groups)) if (at, number) not in hidden]
    new = [number for number in range(len(part.groups)) if (at, number) in hidden]
    rows_of_new = torch.cat([hidden[at, number] for number in new]) if new else empty
    if not stored:
        return rows_of_new
    assert rows.kept is not None
    head = rows.teacher_head()
    assert head is not None
    later = stored_hidden(rows.kept, head, [item.id for number in stored for item in part.groups[number].items])
    place, start = {}, 0
    for number in (*stored, *new):
        place[number] = torch.arange(start, start := start + _tokens(part.groups[number]))
    order = torch.cat([place[number] for number in range(len(part.groups))])
    return PartlyStored(stored=later, new=rows_of_new, order=order.to(rows_of_new.device, non_blocking=True))
