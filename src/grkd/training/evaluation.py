"""The loss of an evaluation set on the scale of training, over batches and ranks, every example counted once."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from grkd.objectives import Objective, Term
from grkd.training.evaluation_metrics import Measured
from grkd.training.groups_of_responses import all_responses
from grkd.training.on_policy import mixed
from grkd.training.rows import DRAW_SEED, REPEATED, RowSource, draw_seed

_EXAMPLES = "examples"
_NO_STEP = -1  # of draws in evaluation, which belong to no optimiser step


def keeping_examples(collate: Callable[[Sequence[Any]], dict[str, Any]]) -> Callable[[Sequence[Any]], dict[str, Any]]:
    """The collator, with the examples in the batch: those that accelerate repeats can then be taken out."""

    def collated(examples: Sequence[Any]) -> dict[str, Any]:
        return {**collate(examples), _EXAMPLES: list(examples)}

    return collated


def prefixed(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """The metrics with `prefix_` before names that do not begin with it."""
    return {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": value for name, value in metrics.items()}


def loss_and_measures(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    *,
    objective: Objective,
    rows: Any,
    measured: Measured | None,
    **settings: Any,
) -> tuple[float, int]:
    """As evaluation_loss; of a method that learns from some responses of a group all are measured, as of the others."""
    if measured is None or objective.trains_on not in ("best", "ends"):
        return evaluation_loss(model, batches, objective=objective, rows=rows, measured=measured, **settings)
    found = evaluation_loss(model, batches, objective=objective, rows=rows, **settings)
    with all_responses(rows):
        evaluation_loss(model, batches, objective=None, rows=rows, measured=measured, **settings)
    return found


@torch.no_grad()
def evaluation_loss(
    model: nn.Module,
    batches: Iterable[dict[str, Any]],
    *,
    objective: Objective | None,
    rows: RowSource,
    accelerator: Accelerator,
    prepared: Callable[[dict[str, Any]], dict[str, Any]],
    autocast: Callable[[], AbstractContextManager[Any]],
    batch_size: int,
    seed: int,
    measured: Measured | None = None,
) -> tuple[float, int]:
    """Sum over levels of (row losses summed over batches and ranks) / (rows there), and the number of rows.

    At the end of training (progress 1). A row's group is drawn by the seed and the row's place in the data, so neither
    the batch size nor the number of ranks changes the loss.
    batches: of keeping_examples if several ranks share them; accelerate fills up the last ones by examples from the
    start of the data, which are not counted here. batch_size: examples per rank. prepared: moves a batch to the device.
    objective: None: nothing but `measured` is asked for. measured: is given every batch that counts.
    """
    levels = () if objective is None else objective.levels
    asked = tuple(dict.fromkeys([*levels, *(() if measured is None else measured.levels)]))
    # One divisor per level, and the tokens for terms that are divided by them.
    total = torch.zeros(2, len(levels) + 1, dtype=torch.float64, device=accelerator.device)
    for number, given in enumerate(batches):
        remainder = accelerator.gradient_state.remainder if accelerator.gradient_state.end_of_dataloader else 0
        inputs, counts_here = _first_seen(given, rows, accelerator, batch_size, remainder)
        inputs = prepared(inputs)
        first = (number * accelerator.num_processes + accelerator.process_index) * batch_size
        inputs[DRAW_SEED] = draw_seed(mixed(seed, _NO_STEP), first)
        counts = rows.count(inputs)
        with autocast():  # on every rank, also where nothing counts: sharded models wait for each other
            found = rows.forward(model, inputs, levels=asked).batches
            terms = [] if objective is None else [objective.terms(replace(found[at], progress=1.0)) for at in levels]
        if counts_here:
            total[0] += total.new_tensor(_sums(terms))
            total[1] += total.new_tensor([float(counts[level]) for level in (*levels, "row")])
            if measured is not None:
                measured.add(found)
    sums, counted = accelerator.reduce(total, reduction="sum").tolist()
    return sum(of_level / max(1.0, count) for of_level, count in zip(sums, counted, strict=True)), int(counted[0])


def _sums(terms: Sequence[tuple[Term, ...]]) -> list[float]:
    """Weighted sums of the terms: of each level those divided by its rows, then of all levels those by the tokens."""
    by_rows = [math.fsum(float(t.weight * t.total()) for t in of_level if t.tokens is None) for of_level in terms]
    per_token = [t for of_level in terms for t in of_level if t.tokens is not None]
    return [*by_rows, math.fsum(float(t.weight * t.total()) for t in per_token)]


def _first_seen(
    batch: dict[str, Any], rows: RowSource, accelerator: Accelerator, batch_size: int, remainder: int
) -> tuple[dict[str, Any], bool]:
    """The batch without examples that an earlier place of this pass holds, and whether any is left.

    batch: of keeping_examples, else it stays as it is. remainder: of the last batches of a pass, counted over the
    ranks, so many examples are the data's own; accelerate fills the rest up from the start of the data. 0: all are.
    """
    batch = dict(batch)
    examples = batch.pop(_EXAMPLES, None)
    if examples is None or remainder <= 0:
        return batch, True
    own = min(max(remainder - accelerator.process_index * batch_size, 0), len(examples))
    if own in (0, len(examples)):
        return batch, own > 0
    return rows.collate(examples[:own]), True


def without_repeats(
    batches: Sequence[dict[str, Any]],
    rows: RowSource,
    accelerator: Accelerator,
    batch_size: int,
    examples: int,
    *,
    ended: bool,
) -> list[dict[str, Any]]:
    """Micro-batches of training without the examples that accelerate repeats at the end of an epoch.

    One that holds nothing else gets REPEATED: it counts no row, and its loss is 0. examples: of the whole data (after a
    resume accelerate itself has lost the remainder). ended: the last of these micro-batches is the epoch's last.
    """
    kept, remainder = [], examples % (batch_size * accelerator.num_processes) if ended else 0
    for number, given in enumerate(batches):
        if number + 1 < len(batches):
            batch, counts = {name: value for name, value in given.items() if name != _EXAMPLES}, True
        else:
            batch, counts = _first_seen(given, rows, accelerator, batch_size, remainder)
        kept.append(batch if counts else {**batch, REPEATED: True})
    return kept
