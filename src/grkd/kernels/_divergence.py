"""The head's divergences between two rows of scores, in plain torch: the reference of the row kernel."""

from jaxtyping import Float
from torch import Tensor

from grkd.kernels._options import Divergence
from grkd.losses import forward_kl, generalized_jsd_of, masked_log_softmax, soft_target


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
    student = masked_log_softmax(student_scores, None, temperature)
    teacher = masked_log_softmax(teacher_scores.detach(), None, temperature)
    return generalized_jsd_of(student, teacher, None, beta=1.0 if divergence == "reverse_kl" else beta)
