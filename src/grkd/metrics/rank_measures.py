"""What the rank task measures of a row of scores: a token of a response, or a prompt's responses."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from grkd import groups
from grkd.losses import forward_kl
from grkd.metrics import calibration, rank
from grkd.statistics import Interval, bootstrap_statistic

_BINS = 15


def token_measures(
    student_logits: Float[Tensor, "rows vocabulary"],
    teacher_logits: Float[Tensor, "rows vocabulary"],
    labels: Int[Tensor, " rows"],
    *,
    top_k: int,
) -> dict[str, Tensor]:
    """What is measured of each response token, [rows] each.

    As against_teacher; correct, confidence, brier, nll_nats of the student against the token that was there.
    """
    against_tokens = calibration.calibration(student_logits, labels)
    del against_tokens["expected_calibration_error"]  # of all rows, not of one
    return {**against_teacher(student_logits, teacher_logits, top_k=top_k), **against_tokens}


@torch.no_grad()
def against_teacher(
    student_logits: Float[Tensor, "rows vocabulary"], teacher_logits: Float[Tensor, "rows vocabulary"], *, top_k: int
) -> dict[str, Tensor]:
    """What is measured of each row against the teacher alone, [rows] each.

    As rank.rank_fidelity, and reverse_kl_nats; ndcg of the teacher's top_k tokens in the student's order, gains the
    teacher's probabilities over the whole vocabulary. Raises UserError for a top_k below 2 or above the vocabulary.
    """
    found = rank.rank_fidelity(student_logits, teacher_logits, top_k=top_k)
    chosen = groups.top(teacher_logits, top_k).indices
    # Softmax at the chosen tokens only: no second tensor of the vocabulary's size in float64.
    total = groups.wide(teacher_logits).logsumexp(-1, keepdim=True)
    gains = (teacher_logits.gather(-1, chosen).double() - total.double()).exp()
    return {
        **found,
        "reverse_kl_nats": rank.reverse_kl(student_logits, teacher_logits),
        "ndcg": rank.ndcg(student_logits.gather(-1, chosen), gains),
    }


def response_measures(
    student: Float[Tensor, "prompts responses"],
    teacher: Float[Tensor, "prompts responses"],
    mask: Bool[Tensor, "prompts responses"],
    *,
    teacher_log_probs: Float[Tensor, "prompts responses"] | None = None,
) -> dict[str, Tensor]:
    """What is measured of each prompt's responses against the teacher, [prompts] each.

    student, teacher_log_probs: mean log-probabilities, nats per token. teacher: the score whose order counts, which is
    the teacher's reward or its mean log-probability (None: teacher holds the mean log-probabilities).
    The order (pair_accuracy, kendall_tau, top1_agreement, ndcg with gains softmax(score)) and brier are against the
    score; the divergences are between the softmaxes of the two mean log-probabilities over a prompt's responses.
    confidence is the student's in its favourite, which is correct (top1_agreement) if it is the teacher's too.
    What is of the order is NaN for prompts whose responses the score does not put in order.
    """
    if teacher_log_probs is None:
        teacher_log_probs = teacher
    favourite = teacher.masked_fill(~mask, -torch.inf).argmax(-1)
    against_favourite = calibration.calibration(student.masked_fill(~mask, -torch.inf), favourite)
    unordered = ~groups.has_pair(teacher, mask=mask)
    ndcg = rank.ndcg(student, teacher.masked_fill(~mask, -torch.inf).softmax(-1), mask=mask)
    return {
        "pair_accuracy": rank.pair_accuracy(student, teacher, mask=mask),
        "kendall_tau": rank.kendall_tau_b(student, teacher, mask=mask),
        "top1_agreement": rank.top1_agreement(student, teacher, mask=mask),
        "ndcg": ndcg.masked_fill(unordered, torch.nan),
        "forward_kl_nats": forward_kl(student, teacher_log_probs, mask=mask),
        "reverse_kl_nats": rank.reverse_kl(student, teacher_log_probs, mask=mask),
        "brier": against_favourite["brier"].masked_fill(unordered, torch.nan),
        "confidence": against_favourite["confidence"],
    }


def grade_measures(
    student: Float[Tensor, "prompts responses"],
    grades: Float[Tensor, "prompts responses"],
    mask: Bool[Tensor, "prompts responses"],
) -> dict[str, Tensor]:
    """What is measured of each prompt's responses against grades, [prompts] each; equal grades make no pair.

    ndcg takes the grades as gains. best_has_top_grade: the student's favourite has the highest grade of its group.
    """
    favourite = student.masked_fill(~mask, -torch.inf).argmax(-1, keepdim=True)
    highest = grades.masked_fill(~mask, -torch.inf).amax(-1)
    return {
        "pair_accuracy": rank.pair_accuracy(student, grades, mask=mask),
        "kendall_tau": rank.kendall_tau_b(student, grades, mask=mask),
        "ndcg": rank.ndcg(student, grades, mask=mask),
        "best_has_top_grade": (grades.gather(-1, favourite).squeeze(-1) == highest).double(),
    }


def token_record(measures: Mapping[str, Float[Tensor, " tokens"]]) -> dict[str, Any]:
    """All that the task's metrics need of one response's tokens, for JSON.

    measures: as token_measures. tokens: how many; sums, counts: of each measure over the tokens for which it is
    defined; gaps: the sums of correct - confidence by bin of the calibration error.
    """
    columns = {name: values.cpu().double().numpy() for name, values in measures.items()}
    confidence = columns.pop("confidence")
    known = {name: ~np.isnan(values) for name, values in columns.items()}
    return {
        "tokens": len(confidence),
        "sums": {name: float(values[known[name]].sum()) for name, values in columns.items()},
        "counts": {name: int(found.sum()) for name, found in known.items()},
        "gaps": _gaps(confidence, columns["correct"], np.zeros(len(confidence), dtype=np.int64)).sum(0).tolist(),
    }


def per_prompt(prompts: NDArray[np.int64], values: Sequence[Any]) -> NDArray[np.float64]:
    """Sums over each prompt's responses: [prompts] or [prompts, bins]."""
    rows = np.asarray(values, dtype=np.float64)
    sums = np.zeros((int(prompts[-1]) + 1, *rows.shape[1:]))
    np.add.at(sums, prompts, rows)
    return sums


def calibration_interval(
    confidence: NDArray[np.float64], correct: NDArray[np.float64], prompts: NDArray[np.int64], *, seed: int
) -> Interval:
    """The expected calibration error over all tokens, and its bootstrap interval over prompts (0, 1, ... in order)."""
    return gaps_interval(_gaps(confidence, correct, prompts), np.bincount(prompts), seed=seed)


def gaps_interval(gaps: NDArray[np.float64], tokens: NDArray[Any], *, seed: int) -> Interval:
    """As calibration_interval, from each prompt's sums by bin, [prompts, bins], and its number of tokens, [prompts].

    A resample's error needs no more than these: sum over bins of |sum of its prompts' gaps| / their tokens. Resamples
    are noisier than the sample, so their errors are larger by a bias that is taken off.
    """

    def error(drawn: NDArray[np.int64]) -> float:
        return float(np.abs(gaps[drawn].sum(0)).sum() / tokens[drawn].sum())

    return bootstrap_statistic(error, len(tokens), seed=seed, least=0.0)


def _gaps(
    confidence: NDArray[np.float64], correct: NDArray[np.float64], prompts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sums of correct - confidence, [prompts, bins]."""
    bins = np.clip(np.ceil(confidence * _BINS).astype(np.int64), 1, _BINS) - 1
    gaps = np.zeros((int(prompts[-1]) + 1 if prompts.size else 0, _BINS))
    np.add.at(gaps, (prompts, bins), correct - confidence)
    return gaps
