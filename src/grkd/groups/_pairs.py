"""Which pairs of candidates the teacher orders."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grkd.groups._scores import checked_mask, wide


def pairs(
    teacher_scores: Float[Tensor, "*rows candidates"], *, mask: Tensor | None = None
) -> Bool[Tensor, "*rows candidates candidates"]:
    """Pairs (i, j) that the teacher orders.

        P = {(i, j) : t_i > t_j, both unmasked}

    Equal teacher scores make no pair.

    Parameters
    ----------
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher; any number of leading axes works.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.

    Returns
    -------
    bool Tensor [*rows, candidates, candidates]
        Entry [..., i, j] is True if i is preferred to j.

    Raises
    ------
    ValueError
        For a mask of another shape.

    References
    ----------
    arXiv 2504.20482.

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.pairs(torch.tensor([2.0, 1.0, 1.0])).int()
    tensor([[0, 1, 1],
            [0, 0, 0],
            [0, 0, 0]], dtype=torch.int32)
    """
    exists = checked_mask(mask, teacher_scores)
    scores = wide(teacher_scores)
    ordered = scores.unsqueeze(-1) > scores.unsqueeze(-2)
    return ordered & exists.unsqueeze(-1) & exists.unsqueeze(-2)


def has_pair(teacher_scores: Float[Tensor, "*rows candidates"], *, mask: Tensor | None = None) -> Bool[Tensor, "*rows"]:
    """Rows in which the teacher orders at least one pair: its unmasked scores are not all equal.

    Parameters
    ----------
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher; any number of leading axes works.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.

    Returns
    -------
    bool Tensor [*rows]
        True for rows with a pair.

    Raises
    ------
    ValueError
        For a mask of another shape.

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.has_pair(torch.tensor([[2.0, 1.0], [1.0, 1.0]]))
    tensor([ True, False])
    """
    scores = wide(teacher_scores)
    if mask is None:  # on a GPU a small classifier's loss is dominated by launches
        return scores.amax(-1) > scores.amin(-1)
    exists = checked_mask(mask, teacher_scores)
    highest = scores.masked_fill(~exists, -torch.inf).amax(-1)
    return highest > scores.masked_fill(~exists, torch.inf).amin(-1)
