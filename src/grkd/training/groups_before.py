"""Groups that a model samples outside of a training step: before training, and at an evaluation."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from torch import nn

from grkd.console import track
from grkd.data.language import Group
from grkd.models.evaluation_mode import evaluation_mode
from grkd.models.shard import in_turns
from grkd.objectives import Objective
from grkd.rankers import Tally
from grkd.ranks import gathered
from grkd.training.fresh_groups import opened_sampler, order_parts, orders, sampled_parts
from grkd.training.on_policy import mixed
from grkd.training.rows import means_over_ranks, moved

if TYPE_CHECKING:
    from grkd.training.language_rows import LanguageRows

_BEFORE = -2  # the step of these draws: no optimiser step has it
NO_RESPONSE = "none"  # source of a place-holder: a prompt that has no response yet


@torch.no_grad()
def groups_of_model(
    rows: "LanguageRows",
    model: nn.Module,
    groups: Sequence[Group],
    objective: Objective,
    *,
    seed: int,
    batch_size: int,
    description: str,
    accelerator: Accelerator,
) -> tuple[list[Group], dict[str, float]]:
    """The groups with new responses of the model, ranked as in training, and the mean score by every ranker.

    Ranks share the work, and all have the result. Draws depend on (seed, number of the group), not on the split. The
    groups are not written to the file of training's groups.
    """
    fresh, step = rows.fresh, mixed(seed, _BEFORE)
    rows.fresh = None if fresh is None else replace(fresh, file=None, scored={}, unordered=Tally(0.0, 0))
    timed, rows.seconds = rows.seconds, defaultdict(float)  # those of training
    found: list[tuple[int, list[Group]]] = []
    opened_sampler(rows, model)  # here, since ranks have different numbers of batches
    try:
        with evaluation_mode(model), in_turns(*rows.asked_teachers):  # ranks have different numbers of batches
            for first, part in own_batches(groups, batch_size, description, accelerator):
                batch = moved(rows.collate_all(part), accelerator.device)
                with accelerator.autocast():
                    made = sampled_parts(
                        rows, model, [batch], objective, seed=step, places=[(_BEFORE, first)], share=1.0
                    )
                    if rows.fresh is not None and orders(objective):
                        order_parts(rows, rows.fresh, made, tokens=False)
                found.append((first, made[0].groups))
        scores = {} if rows.fresh is None else means_over_ranks(rows.fresh.taken(), accelerator)
    finally:
        rows.fresh, rows.seconds = fresh, timed
    return in_order(found, description), scores


def in_order(found: list[tuple[int, list[Any]]], description: str) -> list[Any]:
    """Parts of all ranks, each with the number of its first element, as one list; one that came twice stands once."""
    parts = dict(gathered(found, description))
    return [element for _, part in sorted(parts.items()) for element in part]


def own_batches(
    groups: Sequence[Group], batch_size: int, description: str, ranks: Any, *, evenly: bool = False
) -> Iterator[tuple[int, Sequence[Group]]]:
    """This rank's batches, with the number of the first group of each. ranks: an Accelerator, or a PartialState.

    evenly: every rank has equally many, for a model that ranks call together; the last may come again on a rank that
    would have none.
    """
    starts = range(0, len(groups), batch_size)
    own = list(starts[ranks.process_index :: ranks.num_processes])
    if evenly and len(own) < -(-len(starts) // ranks.num_processes):
        own.append(starts[-1])
    shown = track(own, description, unit="batch") if ranks.is_main_process else own
    for start in shown:
        yield start, groups[start : start + batch_size]
