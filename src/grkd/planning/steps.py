"""The plan of a classifier's or a ranker's run: whole miniatures with more and fewer optimiser steps."""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grkd.classify.context import ClassifierContext
from grkd.classify.engine import in_lockstep, teacher_in_lockstep
from grkd.console import console
from grkd.lists.context import HELDOUT, RankContext
from grkd.lists.prepare import read
from grkd.pipeline.check import check_first
from grkd.pipeline.run import stages
from grkd.planning.earlier import power_of
from grkd.planning.memory import free_memory
from grkd.planning.peak import peak_from_now
from grkd.planning.plan import Plan, Stage
from grkd.planning.seconds import report_seconds
from grkd.recipe import ClassifierRecipe, RankRecipe, Training
from grkd.run.device import device
from grkd.run.folder import RunFolder

_FEW, _MORE, _MOST = 2, 52, 402  # steps of the miniatures
_SHORT = 2.0  # seconds that the further steps must take, to be told apart from what varies in the rest
_LIMIT = 20_000  # examples, lists of each part
_NDCG_VARIANCE = 0.04  # of the difference of two rankers on one query


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds: of checks, and of everything but steps and report, first uses counted; of a step of all students
    together; of a step of the teacher.

    again: of everything but steps and report without first uses. report: of results and page. size: bytes on disk.
    peak: bytes of the GPU's allocator, or of the process on a CPU; 0 if the system does not say.
    """

    rest: float
    step: float
    teacher_step: float
    size: float
    again: float = 0.0
    report: float = 0.0
    peak: int = 0


def plan_steps(recipe: ClassifierRecipe | RankRecipe, *, measured: bool, earlier: Path | None = None) -> Plan:
    """measured: run the miniatures; else steps and power alone. earlier: a run to take the power's figures from."""
    costs = measure_steps(recipe) if measured else None  # first, so that first uses are in it
    train, heldout, each = _sizes(recipe)
    steps, teacher_steps = _steps(recipe, train)
    students = len(recipe.methods) * len(recipe.seeds)
    memory: dict[str, float] = {}
    if costs is not None and costs.peak:  # of the miniature, with all students and whole batches
        memory = {"measured": float(costs.peak), "further examples": float(each * max(0, train - _LIMIT))}
    return Plan(
        stages=() if costs is None else _stages(recipe, costs, steps, teacher_steps, train),
        trials=() if costs is None or recipe.search is None else [_trials(recipe, costs, steps, students)],
        counts={
            "training examples": train,
            "held out": heldout,
            "steps per student": steps,
            "students": students,
            **({"steps of the teacher": teacher_steps} if teacher_steps else {}),
        },
        memory=memory,
        peak=sum(memory.values()) if memory else None,
        free=free_memory(device(recipe.device)),
        disk={} if costs is None else {"run folder": costs.size},
        power=power_of(
            earlier,
            seeds=len(recipe.seeds),
            questions=heldout,
            unit="held-out queries" if isinstance(recipe, RankRecipe) else "held-out examples",
            question_variance=_NDCG_VARIANCE if isinstance(recipe, RankRecipe) else 0.2,
        ),
        notes=[] if measured else ["times were not measured (--quick)"],
    )


def _steps(recipe: ClassifierRecipe | RankRecipe, examples: int) -> tuple[int, int]:
    """Optimiser steps of a student, and of the teacher; 0 if it is not trained."""
    if isinstance(recipe, RankRecipe):
        return recipe.training.steps_for(examples), 0
    teaching = recipe.teacher.training
    of_teacher = 0 if teaching is None else _steps_of(teaching, examples, together=teacher_in_lockstep(recipe))
    return _steps_of(recipe.training, examples, together=in_lockstep(recipe)), of_teacher


def _steps_of(training: Training, examples: int, *, together: bool) -> int:
    """together: in lock-step, whose epochs leave a smaller last batch out."""
    if training.steps is not None or not together:
        return training.steps_for(examples)
    return max(1, round(training.epochs * (examples // max(1, min(training.batch_size, examples)))))


def measure_steps(recipe: ClassifierRecipe | RankRecipe) -> Costs:
    """Run everything with few steps, twice: the first time is what a run's own first time is. Then with more of the
    students' and with more of the teacher's, each compared with the second time.

    Raises UserError as the run.
    """
    quiet, console.quiet = console.quiet, True
    try:
        begin = time.perf_counter()
        check_first(recipe)
        checks = time.perf_counter() - begin
        with tempfile.TemporaryDirectory(prefix="grkd-plan-") as place:
            first, size = _timed(recipe, Path(place) / "first", _FEW, _FEW)
            report = report_seconds(recipe, Path(place) / "first")
            peak = peak_from_now(device(recipe.device))  # once libraries and kernels are loaded
            few, _ = _timed(recipe, Path(place) / "few", _FEW, _FEW)
            step = _further(few, lambda steps: _timed(recipe, Path(place) / f"more-{steps}", steps, _FEW)[0])
            teacher_step = 0.0
            if isinstance(recipe, ClassifierRecipe) and recipe.teacher.training is not None:
                teacher_step = _further(few, lambda steps: _timed(recipe, Path(place) / f"t{steps}", _FEW, steps)[0])
    finally:
        console.quiet = quiet
    stepped = _FEW * (step + teacher_step)
    return Costs(
        rest=checks + max(0.0, first - stepped),
        step=step,
        teacher_step=teacher_step,
        size=size,
        again=max(0.0, few - stepped),
        report=report,
        peak=peak(),
    )


def _further(few: float, run: Callable[[int], float]) -> float:
    """Seconds of one step more. few: of a run of _FEW steps. run: gives those of a run of so many."""
    more = run(_MORE) - few
    if more >= _SHORT:
        return more / (_MORE - _FEW)
    return max(0.0, run(_MOST) - few) / (_MOST - _FEW)


def _timed(recipe: ClassifierRecipe | RankRecipe, folder: Path, steps: int, teacher_steps: int) -> tuple[float, float]:
    """Seconds of a run with so many steps, and the bytes that it leaves."""
    begin = time.perf_counter()
    run = RunFolder(folder)
    with run.locked():
        stages(small(recipe, folder, steps, teacher_steps), run)
    seconds = time.perf_counter() - begin
    return seconds, float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))


def small(
    recipe: ClassifierRecipe | RankRecipe, folder: Path, steps: int, teacher_steps: int
) -> ClassifierRecipe | RankRecipe:
    """The recipe with so many steps and at most 20,000 examples, in another folder."""
    short: dict[str, Any] = {"epochs": 1.0, "minutes": None, "report_to": "none"}
    limit = min(recipe.data.limit or _LIMIT, _LIMIT)
    training = replace(recipe.training, steps=steps, **short)
    common: dict[str, Any] = {"output": str(folder), "search": None, "training": training}
    if isinstance(recipe, RankRecipe):
        return replace(recipe, data=replace(recipe.data, limit=limit), **common)
    teacher = recipe.teacher
    if teacher.training is not None:
        teacher = replace(teacher, training=replace(teacher.training, steps=teacher_steps, **short))
    data, lockstep = replace(recipe.data, limit=limit), replace(recipe.lockstep, teachers=None)
    return replace(recipe, data=data, teacher=teacher, lockstep=lockstep, **common)


def _sizes(recipe: ClassifierRecipe | RankRecipe) -> tuple[int, int, int]:
    """Training and held-out examples or lists; bytes of one, as it lies on the device beside the teacher's scores."""
    with tempfile.TemporaryDirectory(prefix="grkd-plan-") as place:
        if isinstance(recipe, RankRecipe):
            part = read(RankContext(recipe, RunFolder(Path(place))))[1]["part"]
            return int((part != HELDOUT).sum()), int((part == HELDOUT).sum()), 0  # their texts are small
        data = ClassifierContext(recipe, RunFolder(Path(place))).data
        seen = min(len(data.train_labels), recipe.data.student_limit or len(data.train_labels))
        each = 4 * (math.prod(data.input_shape) + data.classes)
        return seen * (1 + recipe.data.copies), len(data.heldout_labels), each


def _stages(
    recipe: ClassifierRecipe | RankRecipe, costs: Costs, steps: int, teacher_steps: int, train: int
) -> list[Stage]:
    more = max(1.0, train / _LIMIT)
    spent = costs.step * steps
    if recipe.training.minutes is not None:
        spent = 60 * recipe.training.minutes * len(recipe.methods) * len(recipe.seeds)
    made = [Stage(name="read, score, evaluate, save", seconds=more * costs.rest)]
    if teacher_steps:
        made.append(Stage(name="train the teacher", seconds=costs.teacher_step * teacher_steps))
    return [*made, Stage(name="train all students", seconds=spent), Stage(name="report", seconds=costs.report)]


def _trials(recipe: ClassifierRecipe | RankRecipe, costs: Costs, steps: int, students: int) -> Stage:
    assert recipe.search is not None
    each = costs.step / students * steps * recipe.search.steps_share + costs.again / (students + 2)
    return Stage(name="trials of grkd compare", seconds=each, times=recipe.search.trials * len(recipe.methods))
