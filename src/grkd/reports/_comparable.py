"""Which two evaluations may be compared: the same questions, asked under the same conditions."""

from dataclasses import dataclass
from typing import Any

from grkd.benchmarks import title_of
from grkd.errors import UserError
from grkd.reports.evaluations import Evaluation, ItemRecord


@dataclass(frozen=True)
class ComparablePair:
    """Two evaluations that may be compared, and the items of both: a's and b's, in a's order."""

    a: Evaluation
    b: Evaluation
    items: tuple[tuple[ItemRecord, ItemRecord], ...]


def comparable(a: Evaluation, b: Evaluation, notes: list[str]) -> ComparablePair | None:
    """b against a, who answered the same questions under the same conditions; else None, and a note says why."""
    title, who = title_of(a.task), f"{a.label} and {b.label}"
    for name in {**a.conditions, **b.conditions}:
        if _known_by(a.conditions.get(name)) != _known_by(b.conditions.get(name)):
            values = f"{_shown(a.conditions.get(name))} and {_shown(b.conditions.get(name))}"
            notes.append(f"{title}: {who} were evaluated with a different {name} ({values}); not compared.")
            return None
    first, second = _by_id(a), _by_id(b)
    common = first.keys() & second.keys()
    other = next((name for name in first if name in common and not _same(first[name], second[name])), None)
    if other is not None:
        notes.append(f"{title}: item {other!r} is a different question for {a.label} and for {b.label}; not compared.")
        return None
    if not common:
        notes.append(f"{title}: {who} have no item in common; not compared.")
        return None
    if len(common) < max(len(first), len(second)):
        notes.append(
            f"{title}: {a.label} has {len(first)} items and {b.label} {len(second)}; "
            f"compared on the {len(common)} in common."
        )
    return ComparablePair(b, a, tuple((row, first[name]) for name, row in second.items() if name in common))


def _by_id(one: Evaluation) -> dict[str, ItemRecord]:
    if any("id" not in row for row in one.items):
        raise UserError(f"{one.path}: an item of {one.task} has no id; run that evaluation again")
    return {str(row["id"]): row for row in one.items}


def _same(first: ItemRecord, second: ItemRecord) -> bool:
    """Whether two items of one id ask the same; results that do not say are believed."""
    return first.get("asked") is None or second.get("asked") is None or first["asked"] == second["asked"]


def _known_by(value: Any) -> Any:
    """What a condition is compared by: a model by its content, wherever it lies."""
    return value.get("identity", value) if isinstance(value, dict) else value


def _shown(value: Any) -> str:
    if isinstance(value, dict) and {"name", "identity"} <= value.keys():
        name, identity = str(value["name"]), str(value["identity"])
        return name if name == identity else f"{name} [{identity[:8]}]"
    return "none" if value is None else str(value)
