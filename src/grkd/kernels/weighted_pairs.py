"""Pairs with weights, fast: the Triton form on CUDA, else the plain one."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from grkd.kernels._available import use_triton
from grkd.kernels._compiled import outside_graphs
from grkd.kernels._options import WEIGHTED_PAIR_KERNELS, Implementation, implementation_of
from grkd.losses import HARD, PairForm, pair_form
from grkd.losses import weighted_pairs as plain


@outside_graphs
def weighted_pairs(
    student_scores: Float[Tensor, "*rows candidates"],
    teacher_scores: Float[Tensor, "*rows candidates"],
    *,
    pair_target: PairForm | str = HARD,
    implementation: Implementation = "auto",
    **options: Any,
) -> Float[Tensor, "*rows"]:
    """grkd.losses.weighted_pairs (formula and options there): the same value and gradient, one value per row.

    On CUDA every pair is computed on the chip and nothing of candidates x candidates is stored.
    Raises what that raises, and UserError for an implementation that cannot run.
    """
    form, sums = pair_form(pair_target), None
    if use_triton(student_scores, implementation_of(form, WEIGHTED_PAIR_KERNELS, implementation)):
        from grkd.kernels import _weighted_triton

        sums = _weighted_triton.run
    return plain(student_scores, teacher_scores, pair_target=form, sums=sums, **options)
