"""Held-out groups as people look at them: responses, every ranker's scores, and a student's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from grkd.data.held_out_groups import HELD_OUT
from grkd.data.tables import write_table
from grkd.files import read_json
from grkd.language.respond import by_group, read_records
from grkd.language.score_report import RANKERS, read_scores
from grkd.run.folder import RunFolder
from grkd.training.groups_file import known


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
