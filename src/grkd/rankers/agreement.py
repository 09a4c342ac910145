"""How far rankers agree, and how often each has no opinion: looked at before anything is trained on their order."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.table import Table

from grkd.metrics.rank import kendall_tau_b
from grkd.rankers._base import Tally
from grkd.rankers.combine import preferred


def kendall_tau(
    one: Float[np.ndarray, "groups n"], other: Float[np.ndarray, "groups n"]
) -> Float[np.ndarray, " groups"]:
    """Kendall's tau-b of two rankers in each group, over the candidates that both score; see metrics.rank."""
    first, second = torch.from_numpy(one), torch.from_numpy(other)
    return kendall_tau_b(first, second, mask=~(first.isnan() | second.isnan())).numpy()


def agreement(
    scores: Mapping[str, Float[np.ndarray, "groups n"]],
    exists: np.ndarray,
    *,
    tallies: Mapping[str, Mapping[str, Tally]] | None = None,
) -> dict[str, Any]:
    """How rankers agree, and what they could not order.

    Parameters
    ----------
    scores : mapping of str to float64 array [groups, n]
        By the ranker's label; NaN: no opinion.
    exists : bool array [groups, n]
        True if there is a response.
    tallies : mapping, optional
        What the rankers counted themselves, by label.

    Returns
    -------
    dict
        "groups" and "responses" (numbers); "rankers": per label abstentions (share of the responses without a score),
        ties (share of the pairs with two scores that are equal; None without such a pair), groups_without_pair, and
        tallies such as position_bias; "pairs": per two rankers the mean of Kendall's tau-b over the groups in which it
        is defined, and their number.

    Examples
    --------
    >>> import numpy as np
    >>> from grkd import rankers
    >>> one, other = np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 3.0, 2.0]])
    >>> found = rankers.agreement({"one": one, "other": other}, np.ones((1, 3), dtype=bool))
    >>> round(found["pairs"][0]["kendall_tau"], 4)  # two pairs agree, one does not
    0.3333
    """
    labels = list(scores)
    pairs = []
    for at, first in enumerate(labels):
        for second in labels[at + 1 :]:
            taus = kendall_tau(scores[first], scores[second])
            defined = taus[~np.isnan(taus)]
            mean = float(defined.mean()) if len(defined) else None
            pairs.append({"rankers": [first, second], "kendall_tau": mean, "groups": len(defined)})
    return {
        "groups": len(exists),
        "responses": int(exists.sum()),
        "rankers": {
            label: {
                **_shares(values, exists),
                **{name: tally.value for name, tally in (tallies or {}).get(label, {}).items()},
            }
            for label, values in scores.items()
        },
        "pairs": pairs,
    }


def table(found: Mapping[str, Any]) -> Table:
    """The agreement as a table for the terminal."""
    shown = Table(title=f"rankers on {found['groups']:,} groups of {found['responses']:,} responses")
    for column in ("ranker", "abstains", "ties", "no pair", "notes"):
        shown.add_column(column)
    for label, values in found["rankers"].items():
        known = ("abstentions", "ties", "groups_without_pair")
        notes = [f"{name} {value:.3g}" for name, value in values.items() if name not in known]
        shown.add_row(label, *(_percent(values[name]) for name in known), ", ".join(notes))
    for pair in found["pairs"]:
        tau = "undefined" if pair["kendall_tau"] is None else f"{pair['kendall_tau']:.2f}"
        shown.add_row(" / ".join(pair["rankers"]), "", "", "", f"Kendall tau {tau} ({pair['groups']:,} groups)")
    return shown


def _shares(scores: Float[np.ndarray, "groups n"], exists: np.ndarray) -> dict[str, float | None]:
    known = exists & ~np.isnan(scores)
    above = preferred(scores)
    ordered = above.sum()
    both = (known.sum(-1) * (known.sum(-1) - 1) // 2).sum()
    return {
        "abstentions": float(1 - known.sum() / max(exists.sum(), 1)),
        "ties": float(1 - ordered / both) if both else None,
        "groups_without_pair": float((~above.any((-1, -2))).mean()) if len(exists) else None,
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
