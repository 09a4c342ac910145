"""How many Chebyshev nodes interpolate the logistic function as well as float32 can see: see _chebyshev_triton.py."""

import functools
import math

# Error of one interpolated sigmoid that float32 cannot see.
TOLERANCE = 3e-8


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


@functools.cache
def range_for(nodes: int) -> float:
    """The widest range of scores / tau that this many nodes serve within the tolerance."""
    low, high = 1e-3, 1e4
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if error_bound(middle, nodes) <= TOLERANCE else (low, middle)
    return low
