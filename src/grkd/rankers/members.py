"""The members of a panel: a ranker with a label and a weight, from an entry of a recipe or a reward function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grkd.errors import UserError
from grkd.rankers._base import Ranker
from grkd.rankers._registry import load


@dataclass(frozen=True, kw_only=True)
class Member:
    """A ranker on a panel.

    Parameters
    ----------
    ranker : Ranker
        The ranker.
    label : str
        Its name in reports and tables.
    weight : float
        Above 0.
    """

    ranker: Ranker
    label: str
    weight: float = 1.0


def member(entry: Any) -> Member:
    """One entry of `panel`.

    Parameters
    ----------
    entry : str, mapping, Ranker or function
        See `panel`.

    Returns
    -------
    Member
        The ranker with its label and weight.

    Raises
    ------
    UserError
        For an unknown ranker or option, and a weight that is not above 0.

    Examples
    --------
    >>> from grkd import rankers
    >>> rankers.member({"name": "log_prob", "weight": 2.0}).weight
    2.0
    """
    if isinstance(entry, str):
        return Member(ranker=load(entry), label=entry)
    if isinstance(entry, Ranker):
        return Member(ranker=entry, label=entry.name)
    if callable(entry):
        return Member(ranker=load("function", function=entry), label=getattr(entry, "__name__", "function"))
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise UserError(f"rankers: expected a name or a mapping with name, got {entry!r}"[:300])
    options = {key: value for key, value in entry.items() if key not in ("name", "label", "weight")}
    weight, label = entry.get("weight", 1.0), entry.get("label", entry["name"])
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise UserError(f"ranker {label}: weight must be a number above 0, got {weight!r}")
    if not isinstance(label, str) or not label:
        raise UserError(f"ranker {entry['name']}: label must be text, got {label!r}")
    return Member(ranker=load(entry["name"], **options), label=label, weight=float(weight))


def member_of_reward(function: Any) -> Member:
    """One of TRL's `reward_funcs`. Raises UserError for what is no reward function."""
    if isinstance(function, str) or hasattr(function, "config"):  # a model, by name or loaded
        name = function if isinstance(function, str) else str(getattr(function.config, "name_or_path", ""))
        return Member(
            ranker=load("reward_model", model=function), label=name.rstrip("/").split("/")[-1] or "reward_model"
        )
    if callable(function):  # a ranker is, too
        return member(function)
    raise UserError(f"reward_funcs: expected a function, a model or its name, got {function!r}"[:300])


def weighted_members(members: Sequence[Member], weights: Sequence[float] | None, where: str) -> list[Member]:
    """The members of a panel with these weights.

    Parameters
    ----------
    members : sequence of Member
        The members.
    weights : sequence of float or None
        One per member, above 0. None: the members as they are.
    where : str
        What the members are called in errors.

    Returns
    -------
    list of Member
        The members.

    Raises
    ------
    UserError
        For another number of weights, or one that is not above 0.

    Examples
    --------
    >>> from grkd import rankers
    >>> rankers.weighted_members([rankers.member("log_prob")], [2.0], "rankers")[0].weight
    2.0
    """
    if weights is None:
        return list(members)
    if len(weights) != len(members) or not all(0 < weight < float("inf") for weight in weights):
        raise UserError(
            f"reward_weights: {len(members)} {where} need as many weights above 0, got {list(weights)}"[:300]
        )
    return [replace(each, weight=float(weight)) for each, weight in zip(members, weights, strict=True)]
