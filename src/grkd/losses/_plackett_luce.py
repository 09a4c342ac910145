"""Plackett-Luce: scores as a distribution over rankings of the candidates, place after place."""

import math
from functools import lru_cache
from itertools import permutations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from grkd.errors import UserError
from grkd.groups import checked_mask, wide
from grkd.losses.checks import check_shapes

# Rankings that are enumerated for one row. 10 candidates and 5 places, or 9 and 6, are just below it.
_MOST_RANKINGS = 1 << 16


def plackett_luce(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    top_k: int | None = None,
) -> Float[Tensor, "*rows"]:
    """Negative log-probability of the teacher's order under the student's scores, in nats, one value per row.

        L = -sum_{k=1..K} [ s_(k) - log sum_{i >= k} exp s_(i) ]

    (1), (2), ... are the unmasked candidates by falling t. Equal t are ordered by index, the lower first: leave out
    rows without a pair if ties are no preference. Fewer than two unmasked candidates give 0.

    Parameters
    ----------
    student_scores : Tensor [*rows, candidates]
        Scores of the student (logits, log-probabilities or rewards). Unmasked scores must be finite.
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher. No gradient reaches them.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.
    top_k : int, optional
        Number of first places K in the sum; every candidate stays in the inner sums. None: all places.

    Returns
    -------
    Tensor [*rows]
        In nats.

    Raises
    ------
    UserError
        For top_k below 1.
    ValueError
        For shapes that differ; a mask never broadcasts.

    References
    ----------
    Plackett, 1975; as a loss (ListMLE): Xia et al., ICML 2008.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import plackett_luce
    >>> plackett_luce(torch.zeros(1, 3), torch.tensor([[3.0, 2.0, 1.0]]))  # one of 3! orders: log 6
    tensor([1.7918])
    """
    check_shapes(student_scores, teacher_scores)
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k must be 1 or more, got {top_k}")
    exists = checked_mask(mask, student_scores)
    order = wide(teacher_scores.detach()).masked_fill(~exists, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    student = wide(student_scores)
    # The most negative finite number instead of -inf: sums over nothing but masked candidates stay finite.
    student = torch.where(exists, student, torch.finfo(student.dtype).min).gather(-1, order)
    remaining = student.flip(-1).logcumsumexp(-1).flip(-1)
    places = torch.where(exists.gather(-1, order), remaining - student, 0.0)
    return places[..., :top_k].sum(-1)


def rankings_jsd(
    student_scores: Float[Tensor, "rows candidates"],
    teacher_scores: Float[Tensor, "rows candidates"],
    *,
    mask: Tensor | None = None,
    ranks: int,
) -> Float[Tensor, " rows"]:
    """Jensen-Shannon divergence of two Plackett-Luce distributions over rankings, in nats, one value per row.

        JSD = 1/2 KL(P_T || M) + 1/2 KL(P_S || M),  M = (P_T + P_S) / 2,  at most log 2
        P(pi) = prod_k exp(s_pi(k)) / sum_{i >= k} exp(s_pi(i)),  pi: rankings of the first `ranks` places

    Missing candidates are in no ranking. A row with fewer than two candidates gives 0.

    Parameters
    ----------
    student_scores : Tensor [rows, candidates]
        Scores of the student.
    teacher_scores : Tensor [rows, candidates]
        Scores of the teacher. No gradient reaches them.
    mask : bool Tensor [rows, candidates], optional
        True where a candidate exists.
    ranks : int
        Number of first places. candidates - 1 or more: the distribution over all candidates! permutations.

    Returns
    -------
    Tensor [rows]
        In nats.

    Raises
    ------
    UserError
        For ranks below 1, or more than 65,536 rankings.
    ValueError
        For shapes that differ; a mask never broadcasts.

    References
    ----------
    Plackett, 1975 (the distribution).

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import rankings_jsd
    >>> rankings_jsd(torch.tensor([[60.0, 0.0]]), torch.tensor([[0.0, 60.0]]), ranks=1)  # log 2
    tensor([0.6931])
    """
    check_shapes(student_scores, teacher_scores)
    exists = checked_mask(mask, student_scores)
    rankings = _rankings(student_scores.shape[-1], ranks).to(student_scores.device)
    student, possible = _log_probs(wide(student_scores), exists, rankings)
    teacher, _ = _log_probs(wide(teacher_scores.detach()).to(student.dtype), exists, rankings)
    # log P_S - log M = log 2 + log sigmoid(log P_S - log P_T): exact where the two are close.
    from_student = student.exp() * (math.log(2) + logsigmoid(student - teacher))
    from_teacher = teacher.exp() * (math.log(2) + logsigmoid(teacher - student))
    return torch.where(possible, (from_student + from_teacher) / 2, 0.0).sum(-1)


def _rankings(candidates: int, ranks: int) -> Int[Tensor, "rankings places"]:
    if ranks < 1:
        raise UserError(f"ranks must be 1 or more, got {ranks}")
    places = max(1, min(ranks, candidates - 1))
    if math.perm(candidates, places) > _MOST_RANKINGS:
        raise UserError(
            f"{candidates} responses have {math.perm(candidates, places)} rankings of {places} places "
            f"(at most {_MOST_RANKINGS}): make ranks smaller, or the groups"
        )
    return _enumerated(candidates, places)


@lru_cache
def _enumerated(candidates: int, places: int) -> Int[Tensor, "rankings places"]:
    return torch.tensor(list(permutations(range(candidates), places)))


def _log_probs(
    scores: Float[Tensor, "rows candidates"],
    exists: Bool[Tensor, "rows candidates"],
    rankings: Int[Tensor, "rankings places"],
) -> tuple[Float[Tensor, "rows rankings"], Bool[Tensor, "rows rankings"]]:
    """Log-probability of each ranking in nats, and whether it can be (elsewhere the number means nothing).

    A row with fewer candidates than places has its missing ones last, in the order of their indices: each of its
    rankings is then there once.
    """
    scores = torch.where(exists, scores, 0.0)
    total = scores.new_zeros(len(scores), len(rankings))
    possible = torch.ones_like(total, dtype=torch.bool)
    free = torch.ones(len(rankings), scores.shape[-1], dtype=torch.bool, device=scores.device)
    for chosen in rankings.unbind(-1):
        left = exists.unsqueeze(1) & free
        remaining = torch.where(left, scores.unsqueeze(1), torch.finfo(scores.dtype).min).logsumexp(-1)
        total = total + torch.where(exists[:, chosen], scores[:, chosen] - remaining, 0.0)
        first_free = chosen == free.int().argmax(-1)
        possible = possible & (exists[:, chosen] | (first_free & ~left.any(-1)))
        free = free.scatter(-1, chosen.unsqueeze(-1), False)
    return total, possible
