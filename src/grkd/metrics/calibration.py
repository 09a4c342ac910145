"""Whether a model's probabilities mean what they say: likelihood, Brier score, calibration error. No gradients."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd import groups
from grkd.errors import UserError


@torch.no_grad()
def calibration(
    logits: Float[Tensor, "rows classes"], labels: Int[Tensor, " rows"], *, bins: int = 15
) -> dict[str, Tensor]:
    """Whether a model's probabilities mean what they say, against labels (classes, or the tokens that came next).

    [rows] each: correct (the top class is the label, 0 or 1), confidence (the top class's probability), nll_nats
    (-log p of the label), brier (sum_k (p_k - [k = label])^2, in [0, 2]). expected_calibration_error: a scalar, as the
    function of that name on the first two. float64. Raises UserError for bins below 1.
    Source of the Brier score: Brier, Monthly Weather Review 78 (1950), the original form over all classes.
    """
    log_probs = groups.wide(logits).log_softmax(-1)
    chosen = log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    best = log_probs.max(-1)
    correct, confidence = (best.indices == labels).double(), best.values.exp().double()
    # sum_k (p_k - [k = label])^2 = sum_k p_k^2 - 2 p_label + 1, without a one-hot tensor.
    brier = log_probs.double().exp().square().sum(-1) - 2 * chosen.double().exp() + 1
    return {
        "correct": correct,
        "confidence": confidence,
        "nll_nats": -chosen.double(),
        "brier": brier,
        "expected_calibration_error": expected_calibration_error(confidence, correct, bins=bins),
    }


@torch.no_grad()
def expected_calibration_error(
    confidence: Float[Tensor, " rows"], correct: Float[Tensor, " rows"], *, bins: int = 15
) -> Float[Tensor, ""]:
    """Mean distance between confidence and accuracy over bins of equal width on (0, 1], in [0, 1].

    ECE = sum_b (n_b / n) |accuracy_b - confidence_b|, bin b holding confidences in ((b - 1) / bins, b / bins].
    No row: NaN. Its bootstrap interval: statistics.bootstrap_statistic. Raises UserError for bins below 1.
    Source: Guo et al., "On calibration of modern neural networks", arXiv 1706.04599, Eq. 3.
    """
    if bins < 1:
        raise UserError(f"bins of the calibration error must be 1 or more, got {bins}")
    members = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, members, correct.double() - confidence.double())
    return gaps.abs().sum() / len(confidence)
