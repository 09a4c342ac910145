"""Held-out groups for the page: a prompt's responses in the teacher's order, beside the students' before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

from grkd.errors import UserError
from grkd.reports._svg import variable_of
from grkd.reports.groups import GroupView, held_out_groups, tally
from grkd.reports.results import BEFORE, Run, split_name
from grkd.reports.tables import name_of, percent

MOST_GROUPS = 100  # of them those whose order changed most: pages stay small
_MOST_TEXT = 600  # characters of a response or prompt


def groups_view(run: Run, places: Mapping[str, int]) -> dict[str, Any] | None:
    """What the template shows: a line per student, and the groups whose order changed most; None without groups.

    Of several seeds of a method the first stands for it. problem: why the groups cannot be shown.
    """
    if not any((run.folder / "evaluate").glob("*/groups.parquet")):
        return None
    try:
        found = held_out_groups(run.folder, has=run.has)
    except UserError as error:
        return {"problem": str(error)}
    students = _students(found)
    chosen = sorted(found, key=lambda group: (-_change(group, students), group.id))[:MOST_GROUPS]
    return {
        "problem": None,
        "students": [_student(found, student, places) for student in students],
        "rankers": list(found[0].by_ranker),
        "groups": [_group(group, students) for group in chosen],
        "total": len(found),
    }


def _students(groups: Sequence[GroupView]) -> list[str]:
    """ "before", and the first seed of every method that all groups have."""
    known = [name for name in groups[0].students if all(name in group.students for group in groups)]
    first: dict[str, str] = {}
    for name in sorted(known, key=lambda name: (name != BEFORE, split_name(name)[1] or 0)):
        first.setdefault(split_name(name)[0], name)
    return list(first.values())


def _student(groups: Sequence[GroupView], student: str, places: Mapping[str, int]) -> dict[str, Any]:
    wrong, pairs = tally(groups, student)
    label, seed = split_name(student)
    known = label in places or label == BEFORE
    name = name_of(label) if seed is None else f"{label}, seed {seed}"
    return {
        "name": name,
        "head": f"rank, {name}",
        "colour": variable_of(label, places) if known else "--line",
        "swapped": f"{wrong:,} of {pairs:,} pairs swapped" + (f" ({percent(wrong / pairs)})" if pairs else ""),
    }


def _change(group: GroupView, students: Sequence[str]) -> int:
    """By how many swapped pairs the students after training differ from the one before."""
    if BEFORE not in group.students:
        return len(group.pairs())
    before = set(group.swapped(BEFORE))
    return sum(len(before ^ set(group.swapped(student))) for student in students if student != BEFORE)


def _group(group: GroupView, students: Sequence[str]) -> dict[str, Any]:
    marked = {student: {place for pair in group.swapped(student) for place in pair} for student in students}
    rows = [
        {
            "place": "-" if group.scores[at] is None else str(number),
            "text": _cut(group.responses[at]),
            "scores": [_number(scores[at]) for scores in group.by_ranker.values()],
            "ranks": [
                {"rank": group.rank(student, at) or "-", "swapped": at in marked[student]} for student in students
            ],
        }
        for number, at in enumerate(group.order(), start=1)
    ]
    return {"id": group.id, "prompt": _cut(group.prompt), "rows": rows, "is": _turn(group, students)}


def _turn(group: GroupView, students: Sequence[str]) -> str:
    """Words that the page's filter knows: changed, better, worse (than before), swapped (still, by some student)."""
    after = [set(group.swapped(student)) for student in students if student != BEFORE]
    before = set(group.swapped(BEFORE)) if BEFORE in group.students else None
    words = ["swapped"] if any(after) else []
    if before is not None:
        words += ["changed"] if any(own != before for own in after) else []
        words += ["better"] if any(len(own) < len(before) for own in after) else []
        words += ["worse"] if any(len(own) > len(before) for own in after) else []
    return " ".join(words)


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 3] + "..."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}".replace("-", "\u2212")
