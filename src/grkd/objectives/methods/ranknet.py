"""RankNet: the logistic loss summed over the pairs that the teacher orders."""

from dataclasses import dataclass

from grkd.groups import has_pair
from grkd.kernels.all_pairs import all_pairs
from grkd.objectives._any_level import AnyLevel
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero
from grkd.objectives._options import option
from grkd.objectives._terms import Term


@dataclass(frozen=True, kw_only=True)
class RankNet(AnyLevel):
    """RankNet (Burges et al.): every ordered pair of a list has weight 1, so lists with more pairs count more.

    L = -sum over pairs with t_i > t_j of log sigmoid(sigma (s_i - s_j)), in nats per list. The group relative loss of
    grkd is the same with the mean over the list's pairs.
    Rows without a pair do not count. Raises UserError for sigma <= 0.
    Source: Burges et al., ICML 2005.
    """

    learns_from = "the pairs that the teacher orders, all with weight 1 (RankNet)"
    minimises = "logistic loss of score differences, summed over the pairs of a list"
    source = "Burges et al., ICML 2005"
    least_teacher = "tiers"

    sigma: float = option(1.0, "multiply the student's score differences by this")

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("ranknet", self, "sigma")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        teacher = batch.required_teacher()
        per_candidate = all_pairs(batch.student, teacher, mask=batch.mask, tau=1 / self.sigma, normalize="candidates")
        count = batch.student.shape[-1] if batch.mask is None else batch.mask.sum(-1)
        counted = has_pair(teacher, mask=batch.mask)
        return (Term(name="ranknet", weight=1.0, rows=per_candidate * count, counted=counted),)


METHOD = RankNet
