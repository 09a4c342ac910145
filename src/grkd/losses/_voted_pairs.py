"""Pairs whose targets are given: votes of several rankers, tiers, abstentions."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from grkd.groups import checked_mask, wide
from grkd.losses.checks import Normalize, check_pairs


def voted_pairs(
    student_scores: Float[Tensor, "rows candidates"],
    targets: Float[Tensor, "rows candidates candidates"],
    weights: Float[Tensor, "rows candidates candidates"] | None = None,
    *,
    mask: Tensor | None = None,
    tau: float = 1.0,
    normalize: Normalize = "pairs",
) -> tuple[Float[Tensor, " rows"], Bool[Tensor, " rows"]]:
    """Pair loss with a target and a weight per pair, in nats, one value per row, and which rows have a pair.

        L = -(1/Z) sum_{i<j} w_ij [q_ij log sigmoid(d_ij) + (1 - q_ij) log sigmoid(-d_ij)],  d_ij = (s_i - s_j) / tau
        Z = sum_{i<j} w_ij for "pairs", the number of unmasked candidates for "candidates"

    Pairs with a masked candidate, or of weight 0, are not read: what stands there may be NaN. A row without any pair
    gives 0 and does not count. One strict order (q of 0 and 1, all weights 1) gives `group_relative`; candidates of
    one tier have weight 0 among themselves.

    Parameters
    ----------
    student_scores : Tensor [rows, candidates]
        Scores of the student.
    targets : Tensor [rows, candidates, candidates]
        q in [0, 1], the share of the opinions that put i above j; only entries with i < j are read. No gradient.
    weights : Tensor [rows, candidates, candidates], optional
        w >= 0, such as the number of opinions; 0: the pair is not compared. None: 1 for every pair. No gradient.
    mask : bool Tensor [rows, candidates], optional
        True where a candidate exists.
    tau : float
        Scale of score differences; above 0.
    normalize : {"pairs", "candidates"}
        What a row's sum is divided by.

    Returns
    -------
    (Tensor [rows], bool Tensor [rows])
        The loss in nats, and rows with a pair.

    Raises
    ------
    UserError
        For tau that is not above 0, or an unknown option.
    ValueError
        For shapes that do not fit.

    References
    ----------
    Ours; with one opinion per pair it is RankNet (Burges et al., ICML 2005).

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import voted_pairs
    >>> targets = torch.full((1, 2, 2), 0.75)  # three of four opinions put the first above the second
    >>> voted_pairs(torch.zeros(1, 2), targets)
    (tensor([0.6931]), tensor([True]))
    """
    rows, candidates = student_scores.shape
    for name, given in (("targets", targets), ("weights", weights)):
        if given is not None and given.shape != (rows, candidates, candidates):
            shape = (rows, candidates, candidates)
            raise ValueError(f"{name} of pairs have shape {tuple(given.shape)}, the scores ask for {shape}")
    check_pairs(tau, normalize)
    exists = checked_mask(mask, student_scores)
    student = torch.where(exists, wide(student_scores), 0.0) / tau
    once = torch.ones(candidates, candidates, dtype=torch.bool, device=student.device).triu(1)
    compared = once & exists.unsqueeze(-1) & exists.unsqueeze(-2)
    if weights is not None:
        compared = compared & (weights.detach() > 0)
    weight = compared.to(student.dtype) if weights is None else torch.where(compared, weights.detach(), 0.0)
    target = torch.where(compared, targets.detach(), 0.0).to(student.dtype)
    margin = student.unsqueeze(-1) - student.unsqueeze(-2)
    # -q log sigmoid(d) - (1 - q) log sigmoid(-d) = (1 - q) d - log sigmoid(d)
    losses = torch.where(compared, weight * ((1 - target) * margin - logsigmoid(margin)), 0.0).sum((-1, -2))
    counted = compared.any(-1).any(-1)
    divisor = weight.sum((-1, -2)) if normalize == "pairs" else exists.sum(-1).to(student.dtype)
    return (losses / torch.where(counted, divisor, 1.0)).to(student.dtype), counted
