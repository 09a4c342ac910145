"""How often a draw from the student would differ from a draw from the teacher."""

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.groups import checked_mask
from grkd.losses._soft_target import masked_log_softmax
from grkd.losses.checks import check_scale, check_shapes


def expected_disagreement(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
) -> Float[Tensor, "*rows"]:
    """Chance that one draw from the student and one from the teacher differ, in [0, 1], one value per row.

        L = 1 - sum_k q_k p_k,  q = softmax(s / T), p = softmax(t / T) over the unmasked candidates
        dL/ds_k = -q_k (p_k - sum_j q_j p_j) / T

    The gradient is a candidate's advantage over its group with the teacher's probability as the reward. The loss is
    bounded, so a row whose teacher is wrong pulls no harder than its probability. At its minimum, 1 - max p, all of the
    student's probability is on the teacher's best candidate: it wants an anchor (soft targets). A row without an
    unmasked candidate gives 0.

    Parameters
    ----------
    student_scores : Tensor [*rows, candidates]
        Scores of the student (logits, log-probabilities or rewards). Unmasked scores must be finite.
    teacher_scores : Tensor [*rows, candidates]
        Scores of the teacher. No gradient reaches them.
    mask : bool Tensor [*rows, candidates], optional
        True where a candidate exists. What stands at masked positions is never read.
    temperature : float
        Divides both sides' scores before the softmax; above 0.

    Returns
    -------
    Tensor [*rows]
        A probability.

    Raises
    ------
    UserError
        For a temperature that is not above 0.
    ValueError
        For shapes that differ; a mask never broadcasts.

    References
    ----------
    Ours. The advantage is that of GRPO (arXiv 2402.03300) without its division by the group's deviation, in expectation
    over the student's draws. With labels in place of p it is the mean absolute error of Ghosh et al., arXiv
    1712.09482, up to a factor.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import expected_disagreement
    >>> expected_disagreement(torch.zeros(1, 4), torch.zeros(1, 4))
    tensor([0.7500])
    """
    check_shapes(student_scores, teacher_scores)
    check_scale("temperature", temperature)
    exists = None if mask is None else checked_mask(mask, student_scores)
    student, teacher = (
        masked_log_softmax(scores, exists, temperature).exp() for scores in (student_scores, teacher_scores.detach())
    )
    if exists is None:
        return 1 - (student * teacher).sum(-1)
    agreement = torch.where(exists, student * teacher, 0.0).sum(-1)
    return torch.where(exists.any(-1), 1 - agreement, 0.0)
