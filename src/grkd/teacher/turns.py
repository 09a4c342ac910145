"""Which of several teachers writes which response."""

from collections.abc import Mapping
from typing import Any

from grkd.errors import UserError


def turns_of(
    teachers: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]], *, share: int
) -> dict[str, list[str]]:
    """Labels of the teachers that write each record's `share` responses, each as many as its weight says.

    teachers: by label, with weight and only (a column and its value; empty: all records). records: columns by id.
    A response is written by the teacher that is furthest behind its share of the responses so far, of those that take
    the record. So who writes depends on the records alone, not on shards or processes.
    Raises UserError for a record that no teacher takes.
    """
    behind = dict.fromkeys(teachers, 0.0)
    turns: dict[str, list[str]] = {}
    for name, columns in records.items():
        able = {
            label: float(each.weight)
            for label, each in teachers.items()
            if all(columns.get(key) == value for key, value in each.only.items())
        }
        if not able:
            asked = {key: columns.get(key) for each in teachers.values() for key in each.only}
            text = f"teacher: record {name} has {asked}, which is no teacher's `only`; give it a teacher"
            raise UserError(text[:380])
        turns[name] = []
        for _ in range(share):
            for label, weight in able.items():
                behind[label] += weight / sum(able.values())
            who = max(able, key=lambda label: round(behind[label], 9))  # of equal ones the first
            behind[who] -= 1
            turns[name].append(who)
    return turns
