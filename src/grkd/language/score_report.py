"""What the score stage tells about the rankers: how they agree, what they could not order, and held-out groups."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from grkd.console import console
from grkd.data.held_out_groups import HELD_OUT
from grkd.data.tables import read_metadata, read_table, write_table
from grkd.files import read_json, write_json
from grkd.language.respond import by_group, read_records
from grkd.rankers import Panel, Tally, agreement
from grkd.rankers.agreement import table
from grkd.run.folder import RunFolder
from grkd.training.groups_file import known

RANKERS = "rankers.json"
_TALLIES = b"grkd_tallies"  # key of a chunk's tallies in its own metadata: both are there or neither

Tallies = dict[str, dict[str, Tally]]


def with_tallies(schema: pa.Schema, tallies: Mapping[str, Mapping[str, Tally]]) -> pa.Schema:
    """The schema of a chunk, with what the rankers counted in it."""
    return schema.with_metadata({_TALLIES: json.dumps(tallies)})


def _chunks(folder: Path) -> list[Path]:
    return sorted(folder.glob("scores-*.parquet"))


def read_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """The score stage's record of every response, by its id."""
    return {record["id"]: record for path in _chunks(folder) for record in read_table(path)}


def report_order(work: Path, panel: Panel) -> None:
    """Write rankers.json and counts.json over all chunks, and print the agreement and what a user should know."""
    groups = by_group(read_scores(work).values())
    tallies = _summed(_chunks(work))
    found = agreement(_by_ranker(groups, panel.labels), _exists(groups), tallies=tallies)
    voters = {"combine": panel.combine, "labels": panel.labels, "weights": panel.weights}
    write_json(work / RANKERS, {**voters, "agreement": found})
    write_json(work / "counts.json", _counts(groups, tallies))
    if len(panel.members) > 1 or any(tallies.values()):
        console.print(table(found))
    _tell(_counts(groups, tallies))


def _summed(paths: list[Path]) -> Tallies:
    found: Tallies = defaultdict(dict)
    for path in paths:
        parts = read_metadata(path, _TALLIES)
        for label, counted in parts.items():
            for name, (total, over) in counted.items():
                found[label][name] = found[label].get(name, Tally(0.0, 0)) + Tally(float(total), over)
    return dict(found)


def _exists(groups: Mapping[str, list[dict[str, Any]]]) -> np.ndarray:
    """bool [groups, n], True if there is a response."""
    n = max(map(len, groups.values()))
    return np.array([[place < len(records) for place in range(n)] for records in groups.values()])


def _by_ranker(groups: Mapping[str, list[dict[str, Any]]], labels: list[str]) -> dict[str, np.ndarray]:
    """Scores [groups, n] by label, NaN for no opinion."""
    found = np.full((len(labels), *_exists(groups).shape), np.nan)
    for row, records in enumerate(groups.values()):
        for place, record in enumerate(records):
            found[:, row, place] = np.array(record["ranker_scores"], dtype=float)  # None is NaN
    return dict(zip(labels, found, strict=True))


def _counts(groups: Mapping[str, list[dict[str, Any]]], tallies: Tallies) -> dict[str, int]:
    several = [records for records in groups.values() if len(records) > 1]
    rewards = [{record["teacher_reward"] for record in records} - {None} for records in several]

    def counted(name: str) -> int:
        return int(sum(each[name].total for each in tallies.values() if name in each))

    return {
        "groups_scored": len(groups),
        "groups_all_scores_equal": sum(len(values) < 2 for values in rewards),
        "groups_cut_for_comparison": counted("groups_cut"),
        "groups_not_compared": counted("groups_not_compared"),
    }


def _tell(counts: Mapping[str, int]) -> None:
    told = {
        "have no two responses with different scores, so they make no pair": counts["groups_all_scores_equal"],
        "were truncated to fit the teacher's context for the comparison": counts["groups_cut_for_comparison"],
        "are too long for the teacher to compare": counts["groups_not_compared"],
    }
    for words, number in told.items():
        if number:
            console.print(f"[yellow]{number} of {counts['groups_scored']} groups {words}[/yellow]")


def keep_groups(path: Path, run: RunFolder, student: Mapping[str, Sequence[float]]) -> None:
    """Write HELD_OUT for groups of two responses or more.

    student: mean token log-probability of every response, by group.
    """
    scored, labels = read_scores(run.path / "score"), read_json(run.path / "score" / RANKERS)["labels"]
    lines = []
    for group, records in by_group(read_records(run, "heldout")).items():
        if len(records) < 2 or group not in student:
            continue
        found = [scored[record["id"]] for record in records]
        by_ranker = zip(labels, zip(*(each["ranker_scores"] for each in found), strict=True), strict=True)
        lines.append(
            {
                "id": group,
                "prompt": records[0]["prompt"],
                "responses": [record["response"] for record in records],
                "scores": [each["teacher_reward"] for each in found],
                "by_ranker": [(label, list(scores)) for label, scores in by_ranker],
                "student": known(student[group]),
            }
        )
    if lines:
        write_table(path, lines, HELD_OUT)
