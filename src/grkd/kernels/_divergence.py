"""The head's divergences between two rows of scores, in plain torch: the reference of the row kernel."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.groups import wide
from grkd.kernels._options import Divergence
from grkd.losses import forward_kl, soft_target


def divergence_rows(
    student_scores: Float[Tensor, "rows candidates"],
    teacher_scores: Float[Tensor, "rows candidates"],
    *,
    divergence: Divergence,
    temperature: float = 1.0,
    beta: float = 0.5,
) -> Float[Tensor, " rows"]:
    """One value per row, in nats; p_S and p_T are softmaxes at `temperature`.

    soft_target: -sum p_T log p_S;  forward_kl: KL(p_T || p_S);  reverse_kl: KL(p_S || p_T)
    jsd: beta KL(p_T || M) + (1 - beta) KL(p_S || M),  M = beta p_T + (1 - beta) p_S
    No gradient reaches the teacher. Source of the JSD: Agarwal et al., arXiv 2306.13649.
    """
    if divergence == "soft_target":
        return soft_target(student_scores, teacher_scores, temperature=temperature)
    if divergence == "forward_kl":
        return forward_kl(student_scores, teacher_scores, temperature=temperature)
    student = (wide(student_scores) / temperature).log_softmax(-1)
    teacher = (wide(teacher_scores.detach()) / temperature).log_softmax(-1)
    if divergence == "reverse_kl":
        return (student.exp() * (student - teacher)).sum(-1)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    from_teacher = (teacher.exp() * (teacher - mixture)).sum(-1)
    from_student = (student.exp() * (student - mixture)).sum(-1)
    return beta * from_teacher + (1 - beta) * from_student
