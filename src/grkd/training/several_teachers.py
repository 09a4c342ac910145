"""Several teachers' word on tokens: their weights for each item, their pooled scores, and their votes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from grkd.data.language import Group
from grkd.models.pooled import PooledModel
from grkd.objectives import Opinions
from grkd.teacher.pooled_scores import PooledScores

# What orders the tokens of a group: the pooled log-probabilities, votes on pairs, or the pairs that all agree on.
TokenOrder = Literal["log_probs", "votes", "unanimous"]
WEIGHTS = "teacher_weights"  # key of a batch: each teacher's weight for each item, [items, teachers]


def weights_of_items(teacher: Any, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Of several teachers as one: each one's weight for each item, [items, teachers]; 0: it is not asked."""
    if not isinstance(teacher, PooledModel):
        return {}
    return {WEIGHTS: torch.tensor([teacher.weights_of(group.columns) for group in groups for _ in group.items])}


@torch.no_grad()
def opinions_of(
    teacher: Any, stored: Any, batch: Mapping[str, Any], order: TokenOrder, *, vocabulary: int
) -> Opinions | None:
    """Several teachers' opinions on the tokens of a batch: of models in this process, or of stored scores that vote.

    Who is not asked about an item has weight 0 in its rows. None for one teacher, and stored scores without votes.
    """
    unanimous = order == "unanimous"
    if isinstance(teacher, PooledModel):
        mask = batch["response_mask"]
        item = torch.arange(len(mask), device=mask.device).unsqueeze(-1).expand_as(mask)[mask]
        return Opinions(scores=teacher.token_log_probs(batch), weights=batch[WEIGHTS][item].T, unanimous=unanimous)
    if isinstance(stored, PooledScores) and order != "log_probs":
        scores, weights = stored.each(batch, vocabulary=vocabulary)
        return Opinions(scores=scores, weights=weights, unanimous=unanimous)
    return None
