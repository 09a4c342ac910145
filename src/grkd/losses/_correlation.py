"""Matching up to scale and shift: Pearson's correlation along rows or columns."""

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.groups import checked_mask, wide


def pearson_distance(
    student_values: Float[Tensor, "*rows candidates"],
    teacher_values: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
) -> Float[Tensor, "*rows"]:
    """1 - Pearson's correlation of each row's unmasked values, in [0, 2], one value per row.

        r = sum_k (s_k - mean s)(t_k - mean t) / (|s - mean s| |t - mean t|)

    Values that are constant over a row correlate with nothing: r = 0, and no gradient. A row with fewer than two
    unmasked values gives 0.

    Parameters
    ----------
    student_values : Tensor [*rows, candidates]
        Any values, such as probabilities.
    teacher_values : Tensor [*rows, candidates]
        The same of the teacher. No gradient reaches them.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.

    Returns
    -------
    Tensor [*rows]
        1 - r, without unit.

    Raises
    ------
    ValueError
        For shapes that differ; a mask never broadcasts.

    References
    ----------
    Huang et al., arXiv 2205.10536, Eq. 5-6. There 1e-8 is added to the denominator, which also damps the correlation of
    very small values; here it is exact down to the dtype's smallest numbers.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import pearson_distance
    >>> pearson_distance(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 5.0]]))
    tensor([1.5000])
    """
    if student_values.shape != teacher_values.shape:
        raise ValueError(
            f"student values have shape {tuple(student_values.shape)}, teacher values {tuple(teacher_values.shape)}"
        )
    exists = None if mask is None else checked_mask(mask, student_values)
    student, teacher = _unit(student_values, exists), _unit(teacher_values.detach(), exists)
    distance = 1 - (student * teacher).sum(-1)
    if exists is None:
        return distance if student_values.shape[-1] > 1 else torch.zeros_like(distance)
    return torch.where(exists.sum(-1) > 1, distance, 0.0)


def _unit(values: Tensor, exists: Tensor | None) -> Tensor:
    """Centred values over their norm; 0 if the norm is 0."""
    values = wide(values)
    if exists is None:
        centred = values - values.mean(-1, keepdim=True)
    else:
        values = torch.where(exists, values, 0.0)
        count = exists.sum(-1, keepdim=True).clamp_min(1)
        centred = torch.where(exists, values - values.sum(-1, keepdim=True) / count, 0.0)
    # Probabilities of a large vocabulary are tiny: scaled first, their squares do not underflow.
    largest = centred.detach().abs().amax(-1, keepdim=True)
    constant = largest <= torch.finfo(values.dtype).tiny
    scaled = centred * torch.where(constant, 0.0, largest.reciprocal())
    return scaled * scaled.square().sum(-1, keepdim=True).masked_fill(constant, 1.0).rsqrt()
