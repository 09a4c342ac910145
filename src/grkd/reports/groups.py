"""The groups of a run as people look at them: a prompt's responses in the teacher's order and in the student's.

Held-out groups: evaluate/<name>/groups.parquet of the students. Training groups: train/<name>/groups/*.parquet.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.data.tables import read_table
from grkd.errors import UserError
from grkd.reports.results import BEFORE

_COMMON = ("id", "prompt", "responses", "scores", "by_ranker")


@dataclass(frozen=True, kw_only=True)
class GroupView:
    """One group. students: mean log-probabilities of its responses by student, "before" first."""

    id: str
    prompt: str
    responses: tuple[str, ...]
    scores: tuple[float | None, ...]
    by_ranker: Mapping[str, tuple[float | None, ...]]
    students: Mapping[str, tuple[float | None, ...]]
    step: int | None = None

    def order(self) -> list[int]:
        """Places of the responses, the best first; those without a score come last."""
        scores = [-math.inf if score is None else score for score in self.scores]
        return sorted(range(len(scores)), key=lambda place: scores[place], reverse=True)

    def rank(self, student: str, place: int) -> int | None:
        """The student's rank of a response, from 1; None without a score."""
        own = self.students[student][place]
        if own is None:
            return None
        return 1 + sum(other is not None and other > own for other in self.students[student])

    def swapped(self, student: str) -> list[tuple[int, int]]:
        """Pairs of places (better, worse by the ranking) that the student has the other way round."""
        return [(i, j) for i, j in self.pairs() if _above(self.students[student][j], self.students[student][i])]

    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of places that the ranking orders, the better one first."""
        places = range(len(self.responses))
        return [(i, j) for i in places for j in places if _above(self.scores[i], self.scores[j])]


def held_out_groups(run: Path, *, has: Callable[[str], bool] = lambda name: True) -> list[GroupView]:
    """Every held-out group of a run with all of its students, or those that it `has`, by name.

    Raises UserError if the run has kept none.
    """
    if not run.is_dir():
        raise UserError(f"{run}: no such folder; give the folder that a recipe's `output` names")
    found: dict[str, dict[str, Any]] = {}
    paths = [path for path in (run / "evaluate").glob("*/groups.parquet") if has(path.parent.name)]
    for path in sorted(paths, key=lambda path: (path.parent.name != BEFORE, path)):
        for line in _lines(path):
            group = found.setdefault(line["id"], {**line, "students": {}})
            if line["responses"] == group["responses"]:  # else of an earlier run, with other responses
                group["students"][path.parent.name] = tuple(line["student"])
    if not found:
        trained = [one for one in _trained(run) if _sampled(run, one).is_dir()]
        why = "`grkd run` of a language model with responses.n of 2 or more keeps them"
        if trained:
            why = f"those that were sampled in training are shown by --train {trained[0]}"
        raise UserError(f"{run}: no held-out groups are kept there; {why}")
    return [_view(group) for group in found.values()]


def training_groups(run: Path, student: str) -> list[GroupView]:
    """The groups that a student of a run, or of a GRKDTrainer, sampled in training, in the order of its steps.

    Raises UserError if there are none.
    """
    folder = _sampled(run, student)
    lines = [line for path in sorted(folder.glob("*.parquet")) for line in _lines(path)]
    if not lines:
        kept = [one for one in _trained(run) if _sampled(run, one).is_dir()]
        raise UserError(f"{folder}: no groups are kept there; students with groups: {', '.join(kept) or 'none'}")
    return [
        _view({**line, "students": {"as sampled": tuple(line["student_before"])}})
        for line in sorted(lines, key=lambda line: int(line["step"]))
    ]


def _trained(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "train").glob("*-seed*") if path.is_dir())


def _sampled(run: Path, student: str) -> Path:
    """Where a student's groups lie: a GRKDTrainer trains one student, and keeps them in its output_dir."""
    own, trainers = run / "train" / student / "groups", run / "groups"
    return trainers if not own.is_dir() and (run / "train" / student).is_dir() else own


def _lines(path: Path) -> list[dict[str, Any]]:
    scores = ("step", "student_before") if path.parent.name == "groups" else ("student",)
    return read_table(path, needed=(*_COMMON, *scores), made_by="that recipe")


def _view(line: Mapping[str, Any]) -> GroupView:
    by_ranker = dict(line["by_ranker"])
    return GroupView(
        id=line["id"],
        prompt=line["prompt"],
        responses=tuple(line["responses"]),
        scores=tuple(line["scores"]),
        by_ranker={label: tuple(scores) for label, scores in by_ranker.items()},
        students=line["students"],
        step=line.get("step"),
    )


def _above(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and one > other


def tally(groups: Sequence[GroupView], student: str) -> tuple[int, int]:
    """Over all groups: pairs that the student has the wrong way round, and pairs that the ranking orders."""
    own = [group for group in groups if student in group.students]
    return sum(len(group.swapped(student)) for group in own), sum(len(group.pairs()) for group in own)
