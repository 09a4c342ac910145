"""Several teachers: which of them a ranker asks, each with its weight and the records that it is asked about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ASK_A_TEACHER = ("log_prob", "choice", "calibrated")


@dataclass(frozen=True, kw_only=True)
class OneOfSeveral:
    """A teacher's label, its weight, and the column and value of the records that it is asked about (empty: all)."""

    label: str
    weight: float | int = 1.0
    only: Mapping[str, Any] = field(default_factory=dict)


def for_each_teacher(entries: Sequence[Any], teachers: Sequence[OneOfSeveral]) -> list[Any]:
    """Rankers of a recipe or trainer, those that ask the teacher once for every one of several teachers.

    Parameters
    ----------
    entries : sequence
        As for `panel`. An entry with `teacher: LABEL` is that teacher's alone.
    teachers : sequence of OneOfSeveral
        Empty: the entries stay as they are.

    Returns
    -------
    list
        Entries for `panel`. A teacher's weight multiplies the ranker's.

    Examples
    --------
    >>> from grkd.rankers.several import OneOfSeveral, for_each_teacher
    >>> found = for_each_teacher(["log_prob", "verifier"], [OneOfSeveral(label="a"), OneOfSeveral(label="b", weight=2)])
    >>> [each if isinstance(each, str) else (each["label"], each["weight"]) for each in found]
    [('a', 1.0), ('b', 2.0), 'verifier']
    """
    plain = [{"name": entry} if isinstance(entry, str) and entry in ASK_A_TEACHER else entry for entry in entries]
    asking = [each for each in plain if isinstance(each, Mapping) and each.get("name") in ASK_A_TEACHER]
    found: list[Any] = []
    for entry in plain:
        if not teachers or entry not in asking:
            found.append(entry["name"] if isinstance(entry, dict) and list(entry) == ["name"] else entry)
            continue
        for one in teachers:
            if entry.get("teacher", one.label) != one.label:
                continue
            label = one.label if len(asking) == 1 else f"{entry.get('label', entry['name'])}-{one.label}"
            if "teacher" in entry:
                label = entry.get("label", label)
            weight = float(entry.get("weight", 1.0)) * one.weight
            only = {"only": dict(one.only)} if one.only else {}
            found.append({**entry, "teacher": one.label, "label": label, "weight": weight, **only})
    return found


def column_of(teacher: str | None) -> str:
    """The column of a teacher's mean log-probabilities, where a forward pass has given them already."""
    return "teacher_log_prob" if teacher is None else f"teacher_log_prob:{teacher}"
