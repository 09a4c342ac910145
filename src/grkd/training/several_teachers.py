"""Several teachers' word on tokens: which of them is asked about a record, their pooled scores, and their votes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from grkd.data.language import Group
from grkd.errors import UserError
from grkd.models.pooled import PooledModel
from grkd.objectives import Opinions
from grkd.teacher.pooled_scores import PooledScores

# What orders the tokens of a group: the pooled log-probabilities, votes on pairs, or the pairs that all agree on.
TokenOrder = Literal["log_probs", "votes", "unanimous"]
WEIGHTS = "teacher_weights"  # key of a batch: each teacher's weight for each item, [items, teachers]


def weights_of_items(teacher: PooledModel, groups: Sequence[Group]) -> Tensor:
    """Each teacher's weight for each item of these groups, [items, teachers]; 0: it is not asked."""
    return torch.tensor([teacher.weights_of(group.columns) for group in groups for _ in group.items])


def live_opinions(teacher: PooledModel, batch: Mapping[str, Any], order: TokenOrder) -> Opinions:
    """Opinions of teachers in this process on the tokens of a batch; who is not asked about an item has weight 0."""
    of_item = torch.arange(len(batch["response_mask"]), device=batch["response_mask"].device).unsqueeze(-1)
    item = of_item.expand_as(batch["response_mask"])[batch["response_mask"]]
    weights = batch[WEIGHTS][item].T
    return Opinions(scores=teacher.token_log_probs(batch), weights=weights, unanimous=order == "unanimous")


def stored_opinions(stored: PooledScores, batch: Mapping[str, Any], order: TokenOrder, *, vocabulary: int) -> Opinions:
    """The same of scores that are stored, or were asked for before training."""
    scores, weights = stored.each(batch, vocabulary=vocabulary)
    return Opinions(scores=scores, weights=weights, unanimous=order == "unanimous")


def check_routes(groups: Iterable[Group], routes: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raises UserError for a record that every teacher leaves to another. routes: each one's `only`."""
    for group in groups:
        columns = group.columns or {}
        if not any(all(columns.get(key) == value for key, value in only.items()) for only in routes):
            asked = {key: columns.get(key) for only in routes for key in only}
            text = f"{where}: record {group.id} has {asked}, which is no teacher's `only`; give it a teacher"
            raise UserError(text[:380])
