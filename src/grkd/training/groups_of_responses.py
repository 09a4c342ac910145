"""Groups of responses as training sees them: the responses that a method uses, and values per response as tensors."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.data.language import Group, Item, Matrix
from grkd.objectives import Batch, Choice, ResponseTokens, Votes
from grkd.training.token_rows import item_means, spread, true_places


def scores_of(groups: Sequence[Group]) -> dict[str, Tensor]:
    """What a batch says of its groups: which places hold a response, the order that they were given.

    group_mask, ranked_mask (responses that have a place in the order), teacher_scores: [groups, width]; vote_targets
    and vote_weights [groups, width, width] if the groups have votes: all of them or none.
    """
    width = max(len(group.items) for group in groups)
    mask = torch.tensor([[k < len(group.items) for k in range(width)] for group in groups])
    scores = padded([group.teacher_scores for group in groups], width)
    found = {"group_mask": mask, "ranked_mask": mask & ~scores.isnan(), "teacher_scores": scores.nan_to_num()}
    votes = [group.votes for group in groups if group.votes is not None]
    assert len(votes) in (0, len(groups)), "groups with votes and groups without"
    for at, name in enumerate(("vote_targets", "vote_weights") if votes else ()):
        found[name] = squares([each[at] for each in votes], width)
    return found


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


def evaluation_sets(groups: Any) -> dict[str, Sequence[Group]]:
    """Evaluation groups, one set or several, by the name that messages use; an absent set is empty."""
    if isinstance(groups, dict):
        return {f"eval_dataset[{name!r}]": own or () for name, own in groups.items()}
    return {"eval_dataset": groups or ()}


@contextmanager
def all_responses(rows: Any) -> Iterator[None]:
    """Batches of these rows have all responses of their groups inside, whatever the method is trained on."""
    trains_on, rows.trains_on = rows.trains_on, "all"
    try:
        yield
    finally:
        rows.trains_on = trains_on


def padded(values: Sequence[Sequence[float]], width: int) -> Float[Tensor, "groups width"]:
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in values])


def squares(matrices: Sequence[Matrix], width: int) -> Float[Tensor, "groups width width"]:
    """Matrices of pairs, padded with 0: of weight 0."""
    found = torch.zeros(len(matrices), width, width)
    for row, matrix in enumerate(matrices):
        found[row, : len(matrix), : len(matrix)] = torch.tensor(matrix).reshape(len(matrix), len(matrix))
    return found


def response_rows(token_log_probs: Float[Tensor, " tokens"], batch: dict[str, Any]) -> Batch:
    """One row per prompt: mean log-probabilities of its responses, beside the teacher's scores."""
    mask, group_mask = batch["response_mask"], batch["group_mask"]
    lengths, targets = mask.sum(-1), batch.get("vote_targets")
    return Batch(
        level="response",
        student=spread(item_means(token_log_probs, mask), group_mask),
        teacher=batch["teacher_scores"],
        mask=batch["ranked_mask"],
        lengths=spread(lengths, group_mask),
        reference=batch.get("reference"),
        votes=None if targets is None else Votes(targets=targets, weights=batch["vote_weights"]),
        tokens=ResponseTokens(
            log_probs=token_log_probs,
            place=true_places(group_mask, len(mask)).repeat_interleave(lengths, output_size=len(token_log_probs)),
            sampled_log_probs=batch.get("sampled_log_probs"),
        ),
    )


def same_prompts(groups: Sequence[Group]) -> list[bool]:
    """Of each item, whether it has the prompt of the item before it in its group."""
    return [
        number > 0 and item.prompt_ids == group.items[number - 1].prompt_ids
        for group in groups
        for number, item in enumerate(group.items)
    ]
