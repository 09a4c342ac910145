"""How faithfully a student keeps its teacher's order and probabilities: one value per row.

Scores have the shape [rows, candidates] (any number of leading axes works) and must be finite where unmasked.
Nothing here carries a gradient. Rows for which a quantity is undefined are NaN: leave them out of means
(`Tensor.nanmean`, or `statistics.bootstrap_interval`, which does).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd import groups
from grkd.errors import UserError
from grkd.losses import forward_kl, soft_target
from grkd.losses.checks import check_shapes

# Entries of one [rows, candidates, candidates] comparison; a few such tensors of bool live at once (16 MB each).
_ENTRIES = 1 << 24


@torch.no_grad()
def pair_accuracy(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
) -> Float[Tensor, "*rows"]:
    """Share of the teacher's ordered pairs that the student orders the same way; a tie of the student counts half.

    P = {(i, j) : t_i > t_j, both unmasked};  accuracy = (#{P : s_i > s_j} + #{P : s_i = s_j} / 2) / |P|, in [0, 1].
    0.5 is chance. A row with no pair is NaN. float64.
    Raises ValueError for shapes that differ.
    """
    return _accuracy(_pair_counts(student_scores, teacher_scores, mask))


@torch.no_grad()
def kendall_tau_b(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
) -> Float[Tensor, "*rows"]:
    """Kendall's tau-b of the student's and the teacher's scores, exact with ties.

    tau_b = (C - D) / sqrt(n_S n_T): C and D pairs ordered the same way and the other way, n_S and n_T pairs that the
    student and the teacher order at all; in [-1, 1]. NaN if either side orders no pair. float64.
    Raises ValueError for shapes that differ.
    Source: Kendall, "The treatment of ties in ranking problems", Biometrika 33 (1945); as scipy.stats.kendalltau.
    """
    return _tau(_pair_counts(student_scores, teacher_scores, mask))


@torch.no_grad()
def top1_agreement(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
) -> Float[Tensor, "*rows"]:
    """1 if the student's highest candidate is one that the teacher scores highest, else 0.

    Of candidates that the student ties the first is taken. A row in which the teacher orders no pair is NaN: any
    candidate would be right. float64. Raises ValueError for shapes that differ.
    """
    check_shapes(student_scores, teacher_scores)
    exists = groups.checked_mask(mask, student_scores)
    favourite = groups.wide(student_scores).masked_fill(~exists, -torch.inf).argmax(-1, keepdim=True)
    teacher = groups.wide(teacher_scores).masked_fill(~exists, -torch.inf)
    agrees = teacher.gather(-1, favourite).squeeze(-1) == teacher.amax(-1)
    return agrees.double().masked_fill(~groups.has_pair(teacher_scores, mask=mask), torch.nan)


@torch.no_grad()
def rank_fidelity(
    student_logits: Float[Tensor, "rows candidates"],
    teacher_logits: Float[Tensor, "rows candidates"],
    *,
    top_k: int | None,
) -> dict[str, Tensor]:
    """All measures of how well the student keeps the teacher's scores, each [rows].

    soft_cross_entropy_nats, forward_kl_nats (temperature 1) and top1_agreement are over all candidates; pair_accuracy
    and kendall_tau (tau-b) over the teacher's top_k candidates, or over all where top_k is None.
    Memory: a few times the logits, plus the pairs of a few rows at a time. Give a vocabulary in chunks of rows.
    Raises UserError for a top_k below 2 or above the number of candidates, ValueError for shapes that differ.
    """
    check_shapes(student_logits, teacher_logits)
    candidates = student_logits.shape[-1]
    student, teacher = student_logits, teacher_logits
    if top_k is not None:
        if not 2 <= top_k <= candidates:
            raise UserError(f"top_k must be between 2 and the {candidates} candidates, got {top_k}")
        chosen = groups.top(teacher_logits, top_k).indices
        student, teacher = student_logits.gather(-1, chosen), teacher_logits.gather(-1, chosen)
    counts = _pair_counts(student, teacher, None)
    return {
        "soft_cross_entropy_nats": soft_target(student_logits, teacher_logits),
        "forward_kl_nats": forward_kl(student_logits, teacher_logits),
        "pair_accuracy": _accuracy(counts),
        "kendall_tau": _tau(counts),
        "top1_agreement": top1_agreement(student_logits, teacher_logits),
    }


@torch.no_grad()
def ndcg(
    student_scores: Float[Tensor, "*rows candidates"],
    gains: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    top_k: int | None = None,
) -> Float[Tensor, "*rows"]:
    """Normalised discounted cumulative gain of the student's order, in [0, 1].

    DCG = sum over ranks r = 1 .. top_k of gain(r) / log2(1 + r), candidates ordered by the student's score;
    NDCG = DCG / the DCG of the best order. Candidates that the student ties share the mean of their gains.
    gains: how good each candidate is, not negative, taken as they stand (linear, no 2^g - 1): grades of responses, or
    the teacher's probabilities softmax(t) of classes and tokens (then it says how near the top of the student's list
    the teacher's probability lies). A row without gain is NaN. float64.
    Raises ValueError for shapes that differ or a negative gain, UserError for a top_k below 1.
    Source: Järvelin & Kekäläinen, ACM TOIS 20 (2002); ties: McSherry & Najork, ECIR 2008; as sklearn's ndcg_score.
    """
    check_shapes(student_scores, gains)
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k of NDCG must be 1 or more, got {top_k}")
    exists = groups.checked_mask(mask, student_scores)
    held = torch.where(exists, gains.double(), 0.0)
    if (held < 0).any():
        raise ValueError("gains of NDCG must not be negative; shift the grades")
    scores = groups.wide(student_scores).masked_fill(~exists, -torch.inf)
    ranks = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=torch.float64)
    discounts = 1 / (1 + ranks).log2()
    if top_k is not None:
        discounts = discounts.masked_fill(ranks > top_k, 0.0)
    found = (_shared_by_ties(scores, held) * discounts).sum(-1)
    return found / (held.sort(-1, descending=True).values * discounts).sum(-1)


@torch.no_grad()
def reverse_kl(
    student_logits: Float[Tensor, "*rows candidates"],
    teacher_logits: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
) -> Float[Tensor, "*rows"]:
    """KL(p_S || p_T) in nats: large if the student puts probability on what the teacher rules out.

    Raises ValueError for shapes that differ.
    """
    return forward_kl(teacher_logits, student_logits, mask=mask)


def _shared_by_ties(
    scores: Float[Tensor, "*rows candidates"], gains: Float[Tensor, "*rows candidates"]
) -> Float[Tensor, "*rows candidates"]:
    """Gains in the order of falling scores, each replaced by the mean over the candidates of the same score."""
    ordered, order = scores.sort(-1, descending=True)
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    tie = new.cumsum(-1) - 1
    empty = torch.zeros_like(gains)
    sums = empty.scatter_add(-1, tie, gains.gather(-1, order))
    sizes = empty.scatter_add(-1, tie, torch.ones_like(gains))
    return (sums / sizes.clamp_min(1)).gather(-1, tie)


def _accuracy(counts: Int[Tensor, "*rows 4"]) -> Float[Tensor, "*rows"]:
    agree, disagree, _, teacher_pairs = counts.double().unbind(-1)
    return (agree + (teacher_pairs - agree - disagree) / 2) / teacher_pairs


def _tau(counts: Int[Tensor, "*rows 4"]) -> Float[Tensor, "*rows"]:
    agree, disagree, student_pairs, teacher_pairs = counts.double().unbind(-1)
    return (agree - disagree) / (student_pairs * teacher_pairs).sqrt()


def _pair_counts(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Int[Tensor, "*rows 4"]:
    """Pairs per row: ordered the same way, ordered the other way, ordered by the student, ordered by the teacher."""
    check_shapes(student, teacher)
    exists = groups.checked_mask(mask, student)
    *rows, candidates = student.shape
    flat, step = (math.prod(rows), candidates), max(1, _ENTRIES // max(1, candidates**2))
    parts = zip(*(scores.reshape(flat).split(step) for scores in (student, teacher, exists)), strict=True)
    counts = []
    for student_part, teacher_part, exists_part in parts:
        by_student, by_teacher = (groups.pairs(scores, mask=exists_part) for scores in (student_part, teacher_part))
        kinds = (by_student & by_teacher, by_student.mT & by_teacher, by_student, by_teacher)
        counts.append(torch.stack([kind.sum((-1, -2)) for kind in kinds], dim=-1))
    return torch.cat(counts).reshape(*rows, 4)
