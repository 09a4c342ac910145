"""Scores in enough precision, and masks of the candidates that exist."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def wide(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Scores in float32, or in float64 if they are float64 already.

    Parameters
    ----------
    scores : Tensor
        Of any shape and floating-point type.

    Returns
    -------
    Tensor
        The same values.

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.wide(torch.ones(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return scores if scores.dtype == torch.float64 else scores.float()


def checked_mask(mask: Tensor | None, scores: Float[Tensor, "*rows candidates"]) -> Bool[Tensor, "*rows candidates"]:
    """The mask as bool, all True if it is None.

    Parameters
    ----------
    mask : Tensor or None
        True where a candidate exists.
    scores : Tensor [*rows, candidates]
        The scores that it belongs to.

    Returns
    -------
    bool Tensor [*rows, candidates]
        The mask.

    Raises
    ------
    ValueError
        For a shape other than the scores' (a mask never broadcasts), and for a floating-point mask (which is more
        often an additive 0/-inf mask than a selection).

    Examples
    --------
    >>> import torch
    >>> from grkd import groups
    >>> groups.checked_mask(None, torch.zeros(1, 3))
    tensor([[True, True, True]])
    """
    if mask is None:
        return torch.ones_like(scores, dtype=torch.bool)
    if mask.shape != scores.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, scores have {tuple(scores.shape)}; they must be equal")
    if mask.is_floating_point():
        raise ValueError(f"mask must be bool (True = the candidate exists), got {mask.dtype}")
    return mask.bool()
