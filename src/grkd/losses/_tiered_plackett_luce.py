"""Plackett-Luce on tiers: the exact likelihood of a partial order."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grkd.errors import UserError
from grkd.groups import checked_mask, wide
from grkd.losses.checks import check_shapes

# The trapezoidal rule over u, with x = log(time) = peak + width * sinh(u): steps are as fine as a large tier's narrow
# peak asks for, and grow towards the long tail below. Beyond these distances from the peak less than exp(-35) is left.
_BELOW, _ABOVE, _STEP = 40.0, 4.5, 0.15
_HALVINGS = 8  # of the interval that the peak lies in: closer than its width for up to some thousand candidates
# Below this the logarithm of 1 - exp(-a) is log a to float64's precision; above it is 0.
_TINY, _CERTAIN = -36.0, 6.5


def tiered_plackett_luce(
    student_scores: Float[Tensor, "rows candidates"],
    teacher_scores: Float[Tensor, "rows candidates"],
    *,
    mask: Tensor | None = None,
    top_k: int | None = None,
) -> Float[Tensor, " rows"]:
    """Negative log-probability of the teacher's partial order under the student's scores, in nats, one value per row.

        L = -sum over tiers T of log P(T before B),  B: all candidates below T

    Candidates with equal teacher scores form a tier; P adds up the Plackett-Luce probabilities of every order inside T.
    Without ties it is `plackett_luce`; the last tier has probability 1, whatever its order. Plackett-Luce is a race:
    candidate i arrives after an exponential time with rate exp(s_i). With R = sum over B of exp(s_i), P(T before B) is
    the integral over t of R exp(-R t) prod over T of (1 - exp(-exp(s_i) t)), which the trapezoidal rule over log t
    gives to about 1e-9 for tiers of any size. Rows with fewer than two tiers give 0.

    Parameters
    ----------
    student_scores : Tensor [rows, candidates]
        Scores of the student. Unmasked scores must be finite.
    teacher_scores : Tensor [rows, candidates]
        Scores of the teacher; equal scores are a tier. No gradient reaches them.
    mask : bool Tensor [rows, candidates], optional
        True where a candidate exists.
    top_k : int, optional
        Only tiers whose first place is among the first top_k count. None: all.

    Returns
    -------
    Tensor [rows]
        In nats.

    Raises
    ------
    UserError
        For top_k below 1.
    ValueError
        For shapes that differ; a mask never broadcasts.

    References
    ----------
    Plackett, 1975; the race: Yellott, 1977; ties added up: ours.

    Examples
    --------
    >>> import torch
    >>> from grkd.losses import tiered_plackett_luce
    >>> tiered_plackett_luce(torch.zeros(1, 3), torch.tensor([[1.0, 1.0, 0.0]]))  # two of three come first: log 3
    tensor([1.0986])
    """
    check_shapes(student_scores, teacher_scores)
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k must be 1 or more, got {top_k}")
    exists = checked_mask(mask, student_scores)
    student, teacher = by_teacher(student_scores, teacher_scores, exists)
    first, last = bounds(teacher)
    below = log_sum_below(student, last)
    counted = torch.isfinite(teacher) & torch.isfinite(below)
    if top_k is not None:
        counted = counted & (first < top_k)
    log_rate = torch.where(counted, student - torch.where(counted, below, 0.0), 0.0)
    log_probs = _log_race(log_rate, first, counted)
    return -log_probs.sum(-1)


def by_teacher(student: Tensor, teacher: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """Both by falling teacher score; masked candidates last, with the teacher's score -inf and the lowest student's."""
    teacher = wide(teacher.detach()).masked_fill(~exists, -torch.inf)
    order = teacher.argsort(dim=-1, descending=True, stable=True)
    scores = wide(student)
    scores = torch.where(exists, scores, torch.finfo(scores.dtype).min / 4)
    return scores.gather(-1, order), teacher.gather(-1, order)


def bounds(teacher: Float[Tensor, "rows candidates"]) -> tuple[Int[Tensor, "rows candidates"], Tensor]:
    """First and last place of each candidate's tier; the rows are sorted by falling score."""
    places = torch.arange(teacher.shape[-1], device=teacher.device).expand(teacher.shape)
    changes = torch.ones_like(teacher, dtype=torch.bool)
    changes[:, 1:] = teacher[:, 1:] != teacher[:, :-1]
    first = torch.where(changes, places, 0).cummax(-1).values
    ends = torch.ones_like(changes)
    ends[:, :-1] = changes[:, 1:]
    last = torch.where(ends, places, teacher.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    return first, last


def log_sum_below(student: Tensor, last: Tensor) -> Float[Tensor, "rows candidates"]:
    """log sum exp(s) over the candidates below each one's tier; -inf if none exists there."""
    from_here = student.flip(-1).logcumsumexp(-1).flip(-1)
    nothing = torch.full_like(from_here[:, :1], -torch.inf)
    below = torch.cat([from_here[:, 1:], nothing], -1).gather(-1, last)
    # Nothing but masked candidates below is nothing.
    return torch.where(below > torch.finfo(student.dtype).min / 8, below, -torch.inf)


def _log_race(
    log_rate: Float[Tensor, "rows candidates"],
    first: Int[Tensor, "rows candidates"],
    counted: Bool[Tensor, "rows candidates"],
) -> Float[Tensor, "rows candidates"]:
    """log P(tier before all below) at each tier's first place, 0 elsewhere; rates are relative to the sum below."""
    x, log_steps = _times(log_rate.detach(), first, counted)
    a = log_rate.unsqueeze(-1) + x
    # log(1 - exp(-exp(a))): a itself if exp(a) is tiny, 0 if it is large; both ends would overflow in backward.
    inside = (a > _TINY) & (a < _CERTAIN)
    exact = torch.log(-torch.expm1(-torch.where(inside, a, 0.0).exp()))
    logs = torch.where(inside, exact, a.clamp_max(0.0) * (a <= _TINY))
    logs = torch.where(counted.unsqueeze(-1), logs, 0.0)
    tiers = torch.zeros_like(logs).scatter_add(1, first.unsqueeze(-1).expand_as(logs), logs)
    found = (tiers + x - x.exp() + log_steps).logsumexp(-1)
    is_first = counted & (first == torch.arange(first.shape[-1], device=first.device))
    return torch.where(is_first, found, 0.0)


def _times(
    log_rate: Float[Tensor, "rows candidates"],
    first: Int[Tensor, "rows candidates"],
    counted: Bool[Tensor, "rows candidates"],
) -> tuple[Float[Tensor, "rows candidates points"], Float[Tensor, "rows candidates points"]]:
    """Points x in log time for each candidate's tier, and the logarithms of the steps between them."""
    # The integrand's logarithm is concave in x; its slope falls from 0 or more at x = 0 to 0 or less at log(size + 1).
    low = torch.zeros_like(log_rate)
    high = torch.zeros_like(log_rate).scatter_add(-1, first, counted.to(log_rate.dtype)).log1p()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rate = (log_rate + middle.gather(-1, first)).clamp(_TINY, _CERTAIN).exp()
        slope = torch.zeros_like(rate).scatter_add(-1, first, torch.where(counted, rate / rate.expm1(), 0.0))
        rising = slope + 1 > middle.exp()
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    peak = ((low + high) / 2).gather(-1, first).unsqueeze(-1)
    width = (-peak / 2).exp()
    narrowest = (1 + log_rate.shape[-1]) ** 0.5
    points = 2 + math.ceil((math.asinh(_BELOW * narrowest) + math.asinh(_ABOVE * narrowest)) / _STEP)
    lowest, highest = -torch.asinh(_BELOW / width), torch.asinh(_ABOVE / width)
    u = lowest + (highest - lowest) * torch.linspace(0, 1, points, device=width.device, dtype=width.dtype)
    return peak + width * u.sinh(), (width * u.cosh() * (highest - lowest) / (points - 1)).log()
