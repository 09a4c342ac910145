"""Which of several teachers is asked about which record, and writes which response."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grkd.errors import UserError


def takes(only: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
    """Whether a teacher is asked about a record with these columns; only: a column and its value, or empty: all."""
    return all(columns.get(name) == value for name, value in only.items())


def check_routes(
    records: Iterable[tuple[str, Mapping[str, Any]]], routes: Sequence[Mapping[str, Any]], where: str
) -> None:
    """Raises UserError for a record (name, columns) that every teacher leaves to another. routes: each one's `only`."""
    for name, columns in records:
        if not any(takes(only, columns) for only in routes):
            asked = {key: columns.get(key) for only in routes for key in only}
            text = f"{where}: record {name} has {asked}, which is no teacher's `only`; give it a teacher"
            raise UserError(text[:380])


def turns_of(
    teachers: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]], *, share: int
) -> dict[str, list[str]]:
    """Labels of the teachers that write each record's `share` responses, each as many as its weight says.

    teachers: by label, with weight and only (a column and its value; empty: all records). records: columns by id.
    A response is written by the teacher that is furthest behind its share of the responses so far, of those that take
    the record. So who writes depends on the records alone, not on shards or processes.
    Raises UserError for a record that no teacher takes.
    """
    check_routes(records.items(), [each.only for each in teachers.values()], "teacher")
    behind = dict.fromkeys(teachers, 0.0)
    turns: dict[str, list[str]] = {}
    for name, columns in records.items():
        able = {label: float(each.weight) for label, each in teachers.items() if takes(each.only, columns)}
        turns[name] = []
        for _ in range(share):
            for label, weight in able.items():
                behind[label] += weight / sum(able.values())
            who = max(able, key=lambda label: round(behind[label], 9))  # of equal ones the first
            behind[who] -= 1
            turns[name].append(who)
    return turns
