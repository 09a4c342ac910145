"""PAD: match the teacher's distribution over rankings of a group of responses."""

from dataclasses import dataclass
from typing import Literal

from grkd.errors import UserError
from grkd.groups import checked_mask, has_pair, wide
from grkd.losses import plackett_luce, rankings_jsd
from grkd.objectives._base import LeastTeacher, Objective
from grkd.objectives._batch import Batch
from grkd.objectives._option_checks import above_zero, known
from grkd.objectives._options import option
from grkd.objectives._terms import Term


@dataclass(frozen=True, kw_only=True)
class PAD(Objective):
    """Preference-aligned distillation: Plackett-Luce distributions over the rankings of a group of responses.

    P_S(pi) = prod_k exp(beta s_pi(k)) / sum_{i >= k} exp(beta s_pi(i)), P_T the same of the teacher's scores t
    target "distribution": L = JSD(P_T, P_S) = 1/2 KL(P_T || M) + 1/2 KL(P_S || M), M = (P_T + P_S) / 2, per row
    target "ranking": L = -log P_S(pi_T), pi_T the teacher's ranking (equal scores by index)
    s: mean token log-probability under the student, t: the teacher's calibrated reward, both in nats per token.
    ranks: number of top places that are modelled, 1 to 6. For a group of up to ranks + 1 responses this is the full
    ranking; for a larger group, the distribution of its first places. All n! / (n - ranks)! of them are enumerated.
    Groups of one response do not count, nor, for "ranking", those whose scores are all equal.
    Raises UserError for options out of range, or for groups with more than 65,536 rankings.
    Source: Gu et al., arXiv 2502.14272 ("probabilistic" and "vanilla" preference distillation; beta 10). Their code
    computes M over the rows of a batch and swaps the arguments of both KLs; here it is the exact divergence.
    `ranks` is ours: they enumerate all rankings of groups of 4.
    """

    learns_from = "the teacher's distribution over rankings of the responses"
    minimises = "Jensen-Shannon divergence of the Plackett-Luce distributions over rankings of the group"
    source = "Gu et al., arXiv 2502.14272"
    levels = ("response",)

    beta: float = option(10.0, "scale of mean log-probabilities")
    target: Literal["distribution", "ranking"] = option(
        "distribution", "distribution: over all rankings; ranking: the teacher's own"
    )
    ranks: int = option(4, "number of top places of a ranking to model, 1 to 6")

    def __post_init__(self) -> None:
        above_zero("pad", self, "beta")
        known("pad", self, "target")
        if not 1 <= self.ranks <= 6:
            raise UserError(f"pad: ranks must be between 1 and 6, got {self.ranks}")

    @property
    def least_of_responses(self) -> LeastTeacher:
        return "order" if self.target == "ranking" else "scores"

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        scores = batch.required_teacher()
        student, teacher = self.beta * wide(batch.student), self.beta * wide(scores)
        if self.target == "ranking":
            rows = plackett_luce(student, teacher, mask=batch.mask, top_k=self.ranks)
            return (Term(name="teachers_ranking", weight=1.0, rows=rows, counted=has_pair(scores, mask=batch.mask)),)
        rows = rankings_jsd(student, teacher, mask=batch.mask, ranks=self.ranks)
        counted = checked_mask(batch.mask, student).sum(-1) >= 2
        return (Term(name="rankings_jsd", weight=1.0, rows=rows, counted=counted),)


METHOD = PAD
