"""Logit standardisation: scores of a row brought to mean 0 and standard deviation 1."""

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.groups import checked_mask, wide

# Below this standard deviation a row counts as constant: its z-scores are 0 and carry no gradient.
_LEAST_DEVIATION = 1e-7


def standardized(scores: Float[Tensor, "*rows candidates"], *, mask: Tensor | None = None) -> Tensor:
    """z-scores of each row over its unmasked candidates; 0 at masked ones.

        z_k = (s_k - mean) / deviation,  mean and (biased) standard deviation over the row's unmasked candidates

    softmax(z / T) is the same for s and a * s + b, a > 0: teacher and student need not agree in scale.

    Parameters
    ----------
    scores : Tensor [*rows, candidates]
        Any scores.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.

    Returns
    -------
    Tensor [*rows, candidates]
        Without unit, in at least float32.

    Raises
    ------
    ValueError
        For a mask of another shape.

    References
    ----------
    Sun et al., arXiv 2403.01427, Algorithm 1.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import standardized
    >>> standardized(torch.tensor([[1.0, 3.0]]))
    tensor([[-1.,  1.]])
    """
    if mask is None:
        variance, mean = torch.var_mean(wide(scores), -1, correction=0, keepdim=True)
        centred = wide(scores) - mean
    else:
        exists = checked_mask(mask, scores)
        values = torch.where(exists, wide(scores), 0.0)
        count = exists.sum(-1, keepdim=True).clamp_min(1)
        centred = torch.where(exists, values - values.sum(-1, keepdim=True) / count, 0.0)
        variance = centred.square().sum(-1, keepdim=True) / count
    # 1 / sqrt(inf) is 0, and so is its gradient.
    return centred * variance.masked_fill(variance <= _LEAST_DEVIATION**2, torch.inf).rsqrt()
