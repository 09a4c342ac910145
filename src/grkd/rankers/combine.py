"""One order out of several rankers' scores: weighted z-scores, a sum, a lexicographic order, or votes on pairs.

Scores have the shape [groups, n]; NaN is no opinion. Everything is computed in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

Combination = Literal["weights", "sum", "lexicographic", "votes"]
COMBINATIONS: tuple[str, ...] = get_args(Combination)
_DECIMALS = 12  # of weighted z-scores: beyond is rounding


@dataclass(frozen=True)
class Votes:
    """Votes on the pairs of each group.

    Parameters
    ----------
    share : float64 array [groups, n, n]
        q[g, i, j] in [0, 1], share of the opinions on (i, j) that put i above j; q[j, i] = 1 - q[i, j], 1/2 where
        there is no opinion.
    weight : float64 array [groups, n, n]
        w[g, i, j] >= 0, symmetric: the number of opinions, each counted with its ranker's weight; 0 if there is
        none.
    """

    share: Float[np.ndarray, "groups n n"]
    weight: Float[np.ndarray, "groups n n"]

    def scores(self) -> Float[np.ndarray, "groups n"]:
        """Share of the votes that each candidate wins, sum_j w_ij q_ij / sum_j w_ij; NaN without any opinion.

        For methods that need a number per candidate. (A Borda count; with intransitive votes no order is right.)
        """
        total = self.weight.sum(-1)
        won = (self.weight * self.share).sum(-1)
        return np.where(total > 0, won / np.where(total > 0, total, 1.0), np.nan)


@dataclass(frozen=True)
class Order:
    """One order per group.

    Parameters
    ----------
    scores : float64 array [groups, n]
        Higher is better; NaN: no place.
    votes : Votes, optional
        What the scores come from, if they were combined by votes.
    """

    scores: Float[np.ndarray, "groups n"]
    votes: Votes | None = None


def order(
    scores: Sequence[Float[np.ndarray, "groups n"]],
    *,
    weights: Sequence[float] | None = None,
    combine: str = "weights",
) -> Order:
    """The rankers' scores as one order.

    Parameters
    ----------
    scores : sequence of float64 array [groups, n]
        One array per ranker, higher is better; NaN: no opinion.
    weights : sequence of float, optional
        One per ranker; None: 1.
    combine : {"weights", "sum", "lexicographic", "votes"}
        See `weighted`, `summed`, `lexicographic` and `votes`. One ranker alone keeps its scores as they are ("sum"
        multiplies them by its weight); for "votes" its pairs are hard.

    Returns
    -------
    Order
        Scores [groups, n], and votes for "votes".

    Raises
    ------
    ValueError
        For no rankers, scores of different shapes, or a weight that is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from grkd import rankers
    >>> judge, verifier = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 1.0, 0.0]])
    >>> rankers.order([verifier, judge], combine="lexicographic").scores
    array([[0.5, 1. , 0. ]])
    """
    if combine == "votes":
        found = votes(scores, weights)
        return Order(scores=scores[0].astype(np.float64) if len(scores) == 1 else found.scores(), votes=found)
    if combine == "lexicographic":
        return Order(scores=lexicographic(scores))
    if combine == "sum":
        return Order(scores=summed(scores, weights))
    return Order(scores=weighted(scores, weights))


def votes(scores: Sequence[Float[np.ndarray, "groups n"]], weights: Sequence[float] | None = None) -> Votes:
    """Votes of rankers on the pairs of each group.

        o_r(i, j) = 1 if r scores both i and j and its scores differ, else 0: a tie and a missing score are abstentions
        w_ij = sum_r v_r o_r(i, j);   q_ij = sum_r v_r o_r(i, j) [s_ri > s_rj] / w_ij, 1/2 if w_ij = 0

    Parameters
    ----------
    scores : sequence of float64 array [groups, n]
        One array per ranker, higher is better; NaN: no opinion.
    weights : sequence of float, optional
        v_r, one per ranker; None: 1.

    Returns
    -------
    Votes
        q and w, each [groups, n, n].

    Raises
    ------
    ValueError
        For no rankers, scores of different shapes, or a weight that is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from grkd import rankers
    >>> rankers.votes([np.array([[2.0, 1.0]]), np.array([[2.0, 1.0]]), np.array([[0.0, 1.0]])]).share[0].round(2)
    array([[0.5 , 0.67],
           [0.33, 0.5 ]])
    """
    _check(scores, weights)
    groups, n = scores[0].shape
    won, opinions = np.zeros((groups, n, n)), np.zeros((groups, n, n))
    for values, weight in zip(scores, weights or [1.0] * len(scores), strict=True):
        above = preferred(values)
        won += weight * above
        opinions += weight * (above | above.swapaxes(-1, -2))
    share = np.where(opinions > 0, won / np.where(opinions > 0, opinions, 1.0), 0.5)
    upper = np.triu(np.ones((n, n), dtype=bool), 1)
    # From the upper half, so that q_ij + q_ji = 1 also after rounding.
    return Votes(np.where(upper, share, 1.0 - np.where(upper, share, 0.5).swapaxes(-1, -2)), opinions)


def weighted(
    scores: Sequence[Float[np.ndarray, "groups n"]], weights: Sequence[float] | None = None
) -> Float[np.ndarray, "groups n"]:
    """Weighted mean of the rankers' z-scores within the group.

    z = (s - mean) / standard deviation over the candidates that the ranker scores, 0 if all of them are equal.
    A missing score counts as the ranker's mean (z = 0): an abstention moves a candidate neither up nor down.
    Candidates whose means are equal up to rounding are tied.
    NaN if no ranker scores the candidate. One ranker alone keeps its scores as they are.
    Raises ValueError as `votes`.
    """
    _check(scores, weights)
    if len(scores) == 1:
        return scores[0].astype(np.float64)
    weights = weights or [1.0] * len(scores)
    total = sum(
        (weight * np.nan_to_num(z_scores(values)) for values, weight in zip(scores, weights, strict=True)),
        start=np.zeros(scores[0].shape),
    )
    scored = np.any([~np.isnan(values) for values in scores], axis=0)
    # Rankers that cancel out leave a difference of 1e-16, which would be learnt as an order: z-scores are of size 1.
    return np.where(scored, (total / sum(weights)).round(_DECIMALS), np.nan)


def summed(
    scores: Sequence[Float[np.ndarray, "groups n"]], weights: Sequence[float] | None = None
) -> Float[np.ndarray, "groups n"]:
    """Weighted sum of the scores as they are; a missing score adds nothing. NaN if no ranker scores the candidate.

    For scores on one scale, such as rewards that were made for each other. Raises ValueError as `votes`.
    Source: the aggregation of trl.GRPOTrainer (multi_objective_aggregation "sum_then_normalize").
    """
    _check(scores, weights)
    values = np.stack(scores).astype(np.float64)
    total = np.tensordot(np.array(weights or [1.0] * len(scores)), np.nan_to_num(values), axes=1)
    return np.where(np.isnan(values).all(0), np.nan, total)


def lexicographic(scores: Sequence[Float[np.ndarray, "groups n"]]) -> Float[np.ndarray, "groups n"]:
    """The order of the first ranker; candidates that it ties are ordered by the next ranker, and so on.

    Score: place in that order, from 0 (worst) to 1 (best), equal for candidates that all rankers tie.
    A ranker without an opinion on any of the tied candidates is passed over; one that scores some of them leaves the
    others without a place (NaN), since any place would be invented. One ranker alone keeps its scores as they are.
    Raises ValueError as `votes`.
    """
    _check(scores, None)
    if len(scores) == 1:
        return scores[0].astype(np.float64)
    found = np.full(scores[0].shape, np.nan)
    for row in range(len(found)):
        exists = np.flatnonzero(np.any([~np.isnan(values[row]) for values in scores], axis=0))
        tiers = _tiers(exists, [values[row] for values in scores])
        for level, tier in enumerate(tiers):
            found[row, tier] = level / max(len(tiers) - 1, 1)
    return found


def z_scores(scores: Float[np.ndarray, "groups n"]) -> Float[np.ndarray, "groups n"]:
    """(s - mean) / standard deviation over each group's scored candidates; 0 for a group whose scores are all equal."""
    known = ~np.isnan(scores)
    count = np.maximum(known.sum(-1, keepdims=True), 1)
    centred = scores - np.where(known, scores, 0.0).sum(-1, keepdims=True) / count
    deviation = np.sqrt(np.square(np.where(known, centred, 0.0)).sum(-1, keepdims=True) / count)
    # Not by the deviation: that of three times 0.1 is 1e-17, which would blow rounding up to z-scores of 1.
    highest = np.where(known, scores, -np.inf).max(-1, keepdims=True, initial=-np.inf)
    equal = highest <= np.where(known, scores, np.inf).min(-1, keepdims=True, initial=np.inf)
    return np.where(known, np.where(equal, 0.0, centred / np.where(deviation > 0, deviation, 1.0)), np.nan)


def preferred(scores: Float[np.ndarray, "groups n"]) -> Bool[np.ndarray, "groups n n"]:
    """[g, i, j] is True where the ranker puts i above j. Comparisons with NaN are False."""
    return scores[..., :, None] > scores[..., None, :]


def _tiers(candidates: np.ndarray, scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The candidates from worst to best, tied ones together; those that cannot be placed are left out."""
    if not scores or len(candidates) < 2:
        return [candidates] if len(candidates) else []
    first, *rest = scores
    known = candidates[~np.isnan(first[candidates])]
    if not len(known):
        return _tiers(candidates, rest)
    return [tier for value in np.unique(first[known]) for tier in _tiers(known[first[known] == value], rest)]


def _check(scores: Sequence[np.ndarray], weights: Sequence[float] | None) -> None:
    if not scores:
        raise ValueError("no rankers to combine")
    if len({values.shape for values in scores}) > 1:
        raise ValueError(f"scores of different shapes: {[values.shape for values in scores]}")
    if weights is not None and (len(weights) != len(scores) or not all(weight > 0 for weight in weights)):
        raise ValueError(f"{len(scores)} rankers need {len(scores)} weights above 0, got {list(weights)}")
