"""A panel: one ranker or several, and how their scores make one order."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grkd.errors import UserError
from grkd.rankers._base import Columns, Prompts, Resources, Responses, Scores, Tally
from grkd.rankers.combine import COMBINATIONS, Order, order
from grkd.rankers.members import Member, member, member_of_reward, weighted_members

_COST = {"none": 0, "endpoint": 1, "device": 2, "teacher": 3}  # of opening: mistakes are found before models load


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A panel's scores of groups.

    Parameters
    ----------
    order : Order
        The one order.
    by_ranker : dict of str to float64 array [groups, n]
        Each ranker's scores by its label.
    """

    order: Order
    by_ranker: dict[str, Scores]


class Panel:
    """Rankers that are opened, called and closed together; made by `panel`.

    Parameters
    ----------
    members : sequence of Member
        In the order that "lexicographic" reads them.
    combine : {"weights", "sum", "lexicographic", "votes"}
        See `order`.

    Raises
    ------
    UserError
        For no members, or two with one label.
    """

    def __init__(self, members: Sequence[Member], *, combine: str = "weights") -> None:
        if not members:
            raise UserError("rankers: the list is empty; name one, such as log_prob")
        labels = [member.label for member in members]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise UserError(f"rankers: {twice!r} appears twice; give each its own label")
        if combine not in COMBINATIONS:
            raise UserError(f"rankers: unknown combine {combine!r}; known: {', '.join(COMBINATIONS)}")
        self.members, self.combine = list(members), combine

    @property
    def labels(self) -> list[str]:
        return [member.label for member in self.members]

    @property
    def weights(self) -> list[float]:
        return [member.weight for member in self.members]

    @property
    def needs(self) -> set[str]:
        """What the members need: of "teacher", "device", "endpoint"."""
        return {str(member.ranker.needs) for member in self.members} - {"none"}

    @property
    def reads(self) -> set[str]:
        """Columns without which the panel cannot work."""
        return {column for member in self.members for column in member.ranker.reads}

    @property
    def columns(self) -> set[str] | None:
        """Columns that something may read; None: any, since a function, or a ranker of one's own, gets all of them."""
        own = all(type(m.ranker).__module__.startswith("grkd.") and m.ranker.name != "function" for m in self.members)
        return self.reads if own else None

    def check_columns(self, has: Collection[str], known: Collection[str], *, where: str, what: str) -> None:
        """Raises UserError for a column that a member reads and that is neither known nor in the records.

        has: the records' columns. known: what is known of groups beside them. what: the setting that errors name.
        """
        for name in sorted(self.reads - set(known) - set(has)):
            listed = ", ".join(sorted(has)) or "none beside the prompts"
            problem = f"{what}: a ranker reads the column {name!r}, and no record of {where} has it"
            raise UserError(f"{problem}; columns: {listed}"[:400])

    def check(self) -> None:
        """Raises UserError for what would end `open` and needs no weights and no network."""
        for each in self.members:
            each.ranker.check()

    def open(self, resources: Resources) -> None:
        """Open every member, those that load nothing first; stored answers of each go to a folder of its label.

        Raises what the members raise.
        """
        for each in sorted(self.members, key=lambda each: _COST[each.ranker.needs]):
            folder = None if resources.folder is None else resources.folder / each.label
            each.ranker.open(replace(resources, folder=folder))

    def __call__(self, prompts: Prompts, responses: Responses, columns: Columns | None = None) -> Ranked:
        """Score and order groups; see Ranker for the arguments."""
        by_ranker = {member.label: member.ranker(prompts, responses, columns) for member in self.members}
        combined = order(list(by_ranker.values()), weights=self.weights, combine=self.combine)
        return Ranked(order=combined, by_ranker=by_ranker)

    def tallies(self, *, reset: bool = False) -> dict[str, dict[str, Tally]]:
        """What each member counted, by label; reset: it counts from 0 again."""
        found = {member.label: dict(member.ranker.tallies) for member in self.members}
        if reset:
            for each in self.members:
                each.ranker.tallies.clear()
        return found

    def identity(self) -> dict[str, Any]:
        """What the order depends on: options, digests of models and code, weights, and how they are combined."""
        members = [
            {"label": member.label, "weight": member.weight, **member.ranker.identity()} for member in self.members
        ]
        return {"rankers": members, "combine": self.combine}

    def close(self) -> None:
        for each in self.members:
            each.ranker.close()

    def __enter__(self) -> "Panel":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def panel(entries: Sequence[Any], *, combine: str = "weights") -> Panel:
    """Several rankers, and how their scores make one order.

    Parameters
    ----------
    entries : sequence
        Each a ranker's name, a mapping {name, label, weight, options...}, a `Ranker`, or a function with the signature
        of TRL's reward functions.
    combine : {"weights", "sum", "lexicographic", "votes"}
        See `order`.

    Returns
    -------
    Panel
        Open it with the resources that its rankers need, then call it like a ranker.

    Raises
    ------
    UserError
        For an entry that is none of these.

    Examples
    --------
    >>> from grkd import rankers
    >>> shortest = lambda prompts, completions, **columns: [-len(text) for text in completions]
    >>> with rankers.panel([shortest]) as judges:
    ...     judges.open(rankers.Resources())
    ...     judges(["Hi"], [["Hello!", "Hello to you, too!"]]).order.scores
    array([[ -6., -18.]])
    """
    return Panel([member(entry) for entry in entries], combine=combine)


def reward_panel(functions: Any, *, weights: Sequence[float] | None = None, combine: str = "sum") -> Panel:
    """A panel of TRL's `reward_funcs`; their scores are summed as they are, as TRL does by default.

    Parameters
    ----------
    functions : function, model, str or list of these
        Reward functions, sequence-classification models, or their names.
    weights : sequence of float, optional
        TRL's `reward_weights`, one per function.
    combine : {"weights", "sum", "lexicographic", "votes"}
        See `order`.

    Returns
    -------
    Panel
        One member per function.

    Raises
    ------
    UserError
        For another number of weights than functions, and for what is no reward function.

    Examples
    --------
    >>> from grkd import rankers
    >>> shortest = lambda prompts, completions, **columns: [-len(text) for text in completions]
    >>> rankers.reward_panel([shortest, shortest], weights=[1.0, 3.0]).weights
    [1.0, 3.0]
    """
    listed = list(functions) if isinstance(functions, list | tuple) else [functions]
    members = [member_of_reward(function) for function in listed]
    labels = [each.label for each in members]
    members = [
        replace(each, label=f"{each.label}-{at}") if labels.count(each.label) > 1 else each
        for at, each in enumerate(members)
    ]
    return Panel(weighted_members(members, weights, "reward_funcs"), combine=combine)
