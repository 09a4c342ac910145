"""A method of your own in one file: options with help, terms, the contract test, and a training.

python examples/add_a_method.py
grkd run recipe.yaml 'methods=[{name: "add_a_method:HingeKD", margin: 0.5}]'    # from this folder
"""

from dataclasses import dataclass

import torch

from grkd import groups
from grkd.errors import UserError
from grkd.losses import soft_target
from grkd.objectives import Batch, Objective, Term, combine, option
from grkd.testing import check_objective


@dataclass(frozen=True, kw_only=True)
class HingeKD(Objective):
    """Soft targets, and a hinge on the pairs that the teacher orders.

    L = soft_target(s, t) + hinge_weight * mean over pairs with t_i > t_j of max(0, margin - (s_i - s_j))
    Raises UserError for a margin or a weight that is not above 0.
    """

    margin: float = option(1.0, "margin that the preferred candidate must have")
    hinge_weight: float = option(0.5, "weight of the hinge")

    def __post_init__(self) -> None:
        for name in ("margin", "hinge_weight"):
            if not getattr(self, name) > 0:
                raise UserError(f"HingeKD: {name} must be above 0, got {getattr(self, name)}")

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        # A term is one value per row; the trainer sums and divides. Rows without a candidate do not count.
        teacher, counted = batch.required_teacher(), batch.counted()
        soft = soft_target(batch.student, teacher, mask=batch.mask)
        ordered = groups.pairs(teacher, mask=batch.mask)
        # What stands at masked candidates (NaN, inf) must leave before any arithmetic.
        student = groups.wide(batch.student if batch.mask is None else torch.where(batch.mask, batch.student, 0.0))
        short = (self.margin - student.unsqueeze(-1) + student.unsqueeze(-2)).relu()
        hinge = torch.where(ordered, short, 0.0).sum((-1, -2)) / ordered.sum((-1, -2)).clamp_min(1)
        return (
            Term(name="soft_target", weight=1.0, rows=soft, counted=counted),
            Term(name="hinge", weight=self.hinge_weight, rows=hinge, counted=counted),
        )


def main(steps: int = 200) -> float:
    """Check the method, then train a student with it; the share of pairs in the teacher's order."""
    # At margins of 1 and scores of 4 every pair may already be right: a larger margin reaches every row.
    check_objective(HingeKD(margin=8.0), minimum_at_teacher=False)
    objective = HingeKD(margin=0.5)
    torch.manual_seed(0)
    teacher, student = 3 * torch.randn(32, 10), torch.zeros(32, 10, requires_grad=True)
    optimizer = torch.optim.AdamW([student], lr=0.1, weight_decay=0.0)
    for step in range(steps):
        combine(objective.terms(Batch(student=student, teacher=teacher, progress=step / steps))).backward()
        optimizer.step()
        optimizer.zero_grad()
    ordered = groups.pairs(teacher)
    return (ordered & groups.pairs(student.detach())).sum().item() / ordered.sum().item()


if __name__ == "__main__":
    print(f"pairs in the teacher's order: {main():.1%}")
