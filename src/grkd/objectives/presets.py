"""The presets of grkd: compositions that go well together. `paper` is the default; the others come from LOG.md."""

from typing import Any

from grkd.objectives.parts.correlation import Correlation
from grkd.objectives.parts.pairs import Pairs
from grkd.objectives.parts.soft_target import SoftTarget

PRESETS: dict[str, dict[str, Any]] = {
    # arXiv 2504.20482: hard pairs, soft targets at T = 1, alpha linear to 1.
    "paper": {"ranking": (Pairs(),), "anchor": (SoftTarget(),)},
    # Pairs as in the paper, held by soft targets at T = 2 until the end.
    "tokens": {
        "ranking": (Pairs(),),
        "anchor": (SoftTarget(temperature=2.0, t_squared=True),),
        "alpha_ceiling": 0.8,
    },
    # Responses in the teacher's order, their tokens held by soft targets: at alpha = 1 nothing would hold the tokens.
    "responses": {
        "ranking": (Pairs(level="response", tau=0.1),),
        "anchor": (SoftTarget(temperature=2.0, t_squared=True),),
        "alpha_ceiling": 0.5,
    },
    # The order alone, from the first step on, so that ties and partial orders are enough: all pairs alike, which
    # withstand a teacher's mistakes, and each candidate against all below it, which learns more from a clean order.
    "lists": {
        "ranking": (Pairs(), Pairs(pool="softmax", weight=0.3)),
        "anchor": (),
        "alpha_shape": "constant",
    },
    # Soft targets first; then pairs as in the paper and, weighing more, groups of the batch's examples.
    "classes": {
        "ranking": (
            Pairs(weight=4.0),
            Correlation(weight=32.0, over="batch"),
            SoftTarget(weight=64.0, over="batch", divergence="forward_kl"),
        ),
        "anchor": (SoftTarget(weight=16.0, t_squared=True),),
        "alpha_ceiling": 0.8,
    },
}
