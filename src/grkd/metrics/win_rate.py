"""How often one of two models is preferred: the win rate, and what it would be at answers of equal length."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from grkd.statistics import Interval, bootstrap_statistic, wilson_interval

_RIDGE = 1e-2  # on the slope, in observations; answers that length alone separates have no finite fit
_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class LengthFit:
    """P(win) = sigmoid(strength + slope * length), length standardised; strength alone is at equal lengths."""

    strength: float
    slope: float

    @property
    def win_rate(self) -> float:
        """At answers of equal length, in [0, 1]."""
        return float(1 / (1 + np.exp(-self.strength)))


def length_fit(wins: Float[np.ndarray, " prompts"], lengths: Float[np.ndarray, " prompts"]) -> LengthFit:
    """Logistic regression of wins (1, 1/2, 0) on the difference of lengths, by Newton's method.

    length: tanh(difference / its standard deviation), as in the length-controlled AlpacaEval (without the terms of
    instructions). A small ridge on both keeps the fit finite if every answer wins. Raises ValueError for no prompt.
    Source: Dubois et al., arXiv 2404.04475, Eq. 1.
    """
    if not len(wins):
        raise ValueError("a win rate needs one prompt or more")
    spread = lengths.std()
    scaled = np.tanh(lengths / spread) if spread > 0 else np.zeros_like(lengths)
    design = np.stack([np.ones_like(scaled), scaled], axis=1)
    weights = np.zeros(2)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (wins - chance) - _RIDGE * weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-10:
            break
    return LengthFit(strength=float(weights[0]), slope=float(weights[1]))


def controlled_interval(
    wins: Float[np.ndarray, " prompts"], lengths: Float[np.ndarray, " prompts"], *, draws: int = 400, seed: int = 0
) -> Interval:
    """Length-controlled win rate with its 95 % interval by resampling prompts, in [0, 1].

    Where one model wins every prompt, so it does in all resamples: the bounds are then Wilson's.
    """
    value = length_fit(wins, lengths).win_rate
    if len(wins) > 1 and wins.mean() in (0.0, 1.0):
        share = wilson_interval(round(wins.sum()), len(wins))
        return Interval(value, share.low, share.high)

    def measure(rows: NDArray[np.int64]) -> float:
        return length_fit(wins[rows], lengths[rows]).win_rate

    return bootstrap_statistic(measure, len(wins), resamples=draws, seed=seed)
