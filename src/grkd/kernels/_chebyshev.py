"""All pairs in O(candidates * nodes): the logistic function interpolated at Chebyshev nodes, sums over the order.

With scores sorted by the teacher, sum_{j worse than i} f(s_i - s_j) is, for f interpolated in its first argument,
sum_m l_m(s_i) F_m(i) with F_m(i) = sum_{j worse than i} f(x_m - s_j): one running sum a node.
"""

import functools
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad, softplus

# Error of one interpolated sigmoid that float32 cannot see.
TOLERANCE = 3e-8
# Entries of one [rows, candidates, nodes] block, in float64: 64 MB.
_BLOCK = 1 << 23


def error_bound(score_range: float, nodes: int) -> float:
    """Bound of |sigmoid - its interpolant| for differences of scores over an interval of this length (in units of tau).

    sigmoid is analytic for |Im z| < pi and there |sigmoid| <= 1 / sin|Im z| from pi/2 on. On the Bernstein ellipse
    rho of the interval, whose half-height is theta < pi, interpolation at n Chebyshev nodes errs by at most
    4 M rho^(1-n) / (rho - 1), M = 1 / sin theta; the best theta is taken. Source: Trefethen, Approximation Theory and
    Approximation Practice, Theorem 8.2.
    """
    half = max(score_range, 1e-3) / 2
    best = math.inf
    for step in range(1, 50):
        theta = math.pi / 2 * (1 + step / 50)
        ratio = theta / half
        rho = ratio + math.sqrt(1 + ratio**2)
        best = min(best, 4 / math.sin(theta) / (rho - 1) * rho ** (1 - nodes))
    return best


def nodes_for(score_range: float, tolerance: float = TOLERANCE) -> int:
    """Nodes that keep the bound under the tolerance: about 4 times the range, and 16 at least."""
    nodes = 16
    while error_bound(score_range, nodes) > tolerance:
        nodes = math.ceil(nodes * 1.1)
    return nodes


@functools.cache
def range_for(nodes: int, tolerance: float = TOLERANCE) -> float:
    """The widest range of scores that this many nodes serve within the tolerance."""
    low, high = 1e-3, 1e4
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if error_bound(middle, nodes) <= tolerance else (low, middle)
    return low


def interpolated(
    student: Float[Tensor, "rows candidates"],
    teacher: Float[Tensor, "rows candidates"],
    exists: Bool[Tensor, "rows candidates"],
    nodes: int,
) -> tuple[Float[Tensor, " rows"], Tensor, Float[Tensor, "rows candidates"]]:
    """Sums over the pairs of -log sigmoid(s_i - s_j), the pairs' number and the gradient by s, in float64.

    student: scores divided by tau, 0 if masked. Ties make no pair.
    """
    rows, candidates = student.shape
    step = max(1, _BLOCK // max(1, candidates * 16))
    parts = [
        _rows(student[row : row + step], teacher[row : row + step], exists[row : row + step], nodes)
        for row in range(0, rows, step)
    ]
    totals, counts, gradients = zip(*parts, strict=True)
    return torch.cat(totals), torch.cat(counts), torch.cat(gradients)


def _rows(student: Tensor, teacher: Tensor, exists: Tensor, nodes: int) -> tuple[Tensor, Tensor, Tensor]:
    # Masked candidates go to the end and count nothing there.
    ordered, order = teacher.masked_fill(~exists, torch.inf).sort(-1)
    scores, kept = student.double().gather(-1, order), exists.gather(-1, order)
    worse = torch.searchsorted(ordered, ordered)
    upto = torch.searchsorted(ordered, ordered, right=True)
    lowest = scores.masked_fill(~kept, torch.inf).amin(-1, keepdim=True).nan_to_num(posinf=0.0)
    highest = scores.masked_fill(~kept, -torch.inf).amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    middle, half = (highest + lowest) / 2, ((highest - lowest) / 2).clamp_min(1e-6)
    x = torch.where(kept, (scores - middle) / half, 0.0)
    angles = (torch.arange(nodes, dtype=torch.float64, device=x.device) + 0.5) * (math.pi / nodes)
    points = angles.cos()
    signs = angles.sin() * (1 - 2 * (torch.arange(nodes, device=x.device) % 2))
    near = _distance(x, points)
    scale = (signs / near).sum(-1)
    value, below, above = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for start in range(0, nodes, 16):
        part = slice(start, start + 16)
        basis = signs[part] / near[..., part] / scale.unsqueeze(-1)
        gap = scores.unsqueeze(-1) - (middle + half * points[part]).unsqueeze(1)
        gap = torch.where(kept.unsqueeze(-1), gap, -torch.inf)
        value += (basis * _before(softplus(gap), worse)).sum(-1)
        below += (basis * _before(torch.sigmoid(gap), worse)).sum(-1)
        opposite = torch.where(kept.unsqueeze(-1), torch.sigmoid(-gap), 0.0)
        above += (basis * (opposite.sum(-2, keepdim=True) - _before(opposite, upto))).sum(-1)
    gradient = torch.where(kept, above - below, 0.0)
    unsorted = torch.zeros_like(gradient).scatter_(-1, order, gradient)
    return torch.where(kept, value, 0.0).sum(-1), torch.where(kept, worse, 0).sum(-1), unsorted


def _distance(x: Tensor, points: Tensor) -> Tensor:
    # On a node the barycentric formula is 0/0; a hair beside it the formula is exact to rounding.
    near = x.unsqueeze(-1) - points
    return torch.where(near.abs() < 1e-14, 1e-14, near)


def _before(values: Tensor, count: Tensor) -> Tensor:
    """Sum of the first count[i] entries along the candidates."""
    running = pad(values.cumsum(-2), (0, 0, 1, 0))
    return running.gather(-2, count.unsqueeze(-1).expand(*count.shape, values.shape[-1]))
