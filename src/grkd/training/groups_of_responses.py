"""Groups of responses as training sees them: the responses that a method uses, and values per response as tensors."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grkd.data.language import Group, Item, Matrix
from grkd.objectives import Choice


def chosen(group: Group, trains_on: Choice) -> Group:
    """The group with those of its responses that a method is trained on, the best first for "ends"."""
    scores = group.teacher_scores
    places = list(range(len(scores)))
    if trains_on in ("best", "ends"):
        places = [place for place in places if not math.isnan(scores[place])]
        if not places:
            return _with(group, places)
        best = max(places, key=scores.__getitem__)
        worst = min(places, key=scores.__getitem__)
        places = [best] if trains_on == "best" or best == worst else [best, worst]
    elif trains_on in ("teacher", "data"):
        places = [place for place in places if group.sources[place] == trains_on]
    return _with(group, places)


def _with(group: Group, places: Sequence[int]) -> Group:
    """The group with the responses at these places alone."""
    scores, reference, votes = group.teacher_scores, group.reference_log_probs, group.votes
    return replace(
        group,
        items=tuple(group.items[place] for place in places),
        teacher_scores=tuple(scores[place] for place in places),
        sources=tuple(group.sources[place] for place in places),
        reference_log_probs=None if reference is None else tuple(reference[place] for place in places),
        votes=None if votes is None else (_among(votes[0], places), _among(votes[1], places)),
    )


def _among(matrix: Matrix, places: Sequence[int]) -> Matrix:
    return tuple(tuple(matrix[first][second] for second in places) for first in places)


def group_of(example: Group | Item) -> Group:
    if isinstance(example, Group):
        return example
    return Group(id=example.id, items=(example,), teacher_scores=(0.0,), sources=("data",))


def padded(values: Sequence[Sequence[float]], width: int) -> Float[Tensor, "groups width"]:
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in values])


def squares(matrices: Sequence[Matrix], width: int) -> Float[Tensor, "groups width width"]:
    """Matrices of pairs, padded with 0: of weight 0."""
    found = torch.zeros(len(matrices), width, width)
    for row, matrix in enumerate(matrices):
        found[row, : len(matrix), : len(matrix)] = torch.tensor(matrix).reshape(len(matrix), len(matrix))
    return found


def spread(values: Tensor, group_mask: Bool[Tensor, "groups width"]) -> Tensor:
    """Values of items, one group after the other, at their places in the groups; zeros elsewhere."""
    return torch.zeros(group_mask.shape, dtype=values.dtype, device=values.device).masked_scatter(group_mask, values)
