"""A miniature of a language run, timed stage by stage: the run's own code on a few prompts and steps."""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from rich.markup import escape

from grkd.console import console
from grkd.data.language import Group
from grkd.data.tables import read_table
from grkd.language.context import LanguageContext
from grkd.language.evaluate import evaluate_student, evaluate_teacher, sample_answers
from grkd.language.models import LanguageModels
from grkd.language.prepare import prepare
from grkd.language.reference import needs_reference, reference
from grkd.language.respond import respond
from grkd.language.score import read_groups, score
from grkd.language.train import train_student
from grkd.pipeline.check import check_first
from grkd.planning.make import asks_endpoint
from grkd.planning.peak import peak_from_now
from grkd.planning.seconds import compile_time, report_seconds
from grkd.recipe import LanguageRecipe, Method
from grkd.run.folder import RunFolder
from grkd.run.results import describe
from grkd.training.callbacks import json_lines

_EVERY = 4  # steps between logs, each of which waits for the GPU; those up to the first do not count
_LOGS = 2  # per method; three times as many on a GPU, where a kernel may be made for a new size in any of them
_SHORT = 10.0  # seconds of a stage that is worth repeating
_FEWEST = 16  # prompts of which a quarter is still a run

_Stage = Callable[[LanguageContext], Any]


class _TimedModels(LanguageModels):
    """Models whose loading is timed."""

    loading = 0.0

    def teacher(self) -> Any:
        return self._timed(super().teacher)

    def student(self) -> Any:
        return self._timed(super().student)

    def _timed(self, load: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        found = load()
        self.loading += time.perf_counter() - begin
        return found


@dataclass(kw_only=True)
class Measured:
    """Seconds of the miniature. work: of a stage without loading models; loading: with it alone, by stage.

    checks: of what a run checks before its first stage. each: of one more prompt, by stage. quarter: what a quarter of
    the prompts took the first time beyond the second, for sizes that batches had not had before. step: of one optimiser
    step, by method. first: what a method's first steps took beyond that. saving: of a student's training without its
    steps. peak: bytes in training, by method: allocated on the GPU, or of the process on a CPU. report: of results and
    page. steps: optimiser steps of each method. groups: the training part. prompts: of both parts.
    """

    checks: float = 0.0
    each: dict[str, float] = field(default_factory=dict)
    quarter: dict[str, float] = field(default_factory=dict)

    work: dict[str, float] = field(default_factory=dict)
    loading: dict[str, float] = field(default_factory=dict)
    step: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    saving: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    report: float = 0.0
    sampling: float = 0.0  # of the sample answers
    steps: int = _EVERY * _LOGS
    groups: list[Group] = field(default_factory=list)
    prompts: dict[str, int] = field(default_factory=dict)


def measure(recipe: LanguageRecipe) -> Measured:
    """Run every stage on a few prompts and every method for a few steps, in a folder that is deleted.

    Raises UserError as the run.
    """
    quiet, console.quiet = console.quiet, True

    def tell(stage: str) -> None:
        console.quiet = quiet
        console.print(f"[dim]measuring: {escape(stage)}[/dim]")
        console.quiet = True

    try:
        with tempfile.TemporaryDirectory(prefix="grkd-plan-") as place, compile_time() as compiled:
            begin = time.perf_counter()
            check_first(recipe)
            checks = time.perf_counter() - begin
            return _measured(small(recipe, Path(place)), RunFolder(Path(place)), checks, compiled, tell)
    finally:
        console.quiet = quiet


def small(recipe: LanguageRecipe, folder: Path) -> LanguageRecipe:
    """The recipe on as few prompts as fill two steps, with the same batches, lengths and evaluation."""
    training, gpu = recipe.training, torch.cuda.is_available() and recipe.device != "cpu"
    per_step = training.batch_size * training.gradient_accumulation
    steps = _EVERY * _LOGS * (3 if gpu else 1)
    train, heldout = max(2 * per_step, 128 if gpu else 16), 32 if gpu else 8
    limit = min(recipe.data.limit or 10**9, train + heldout)
    return replace(
        recipe,
        output=str(folder),
        seeds=recipe.seeds[:1],
        search=None,
        data=replace(
            recipe.data, heldout=None, heldout_split=None, limit=limit, heldout_fraction=heldout / (train + heldout)
        ),
        training=replace(
            training, steps=steps, epochs=1.0, log_every=_EVERY, save_every=10**6, report_to="none", minutes=None
        ),
        evaluation=replace(recipe.evaluation, questions=None, curve_questions=None),
    )


@dataclass(kw_only=True)
class _Clock:
    """Times stages of a miniature into `found`, without what a run finds done: kernels are compiled once per machine.

    compiled: seconds of it so far. tell: is called with each stage's name as it begins. repeat: short stages are done
    again for the cost of one more prompt.
    """

    context: LanguageContext
    models: _TimedModels
    found: Measured
    compiled: Callable[[], float]
    tell: Callable[[str], None]
    repeat: bool

    def once(self, stage: _Stage, context: LanguageContext) -> tuple[float, float]:
        """Seconds of work, and of loading models."""
        before, compiled, begin = self.models.loading, self.compiled(), time.perf_counter()
        stage(context)
        loading, compiled = self.models.loading - before, self.compiled() - compiled
        return time.perf_counter() - begin - loading - compiled, loading

    def timed(self, name: str, stage: _Stage) -> None:
        self.tell(name)
        self.found.work[name], self.found.loading[name] = self.once(stage, self.context)

    def scaled(self, name: str, stage: _Stage, quarter: LanguageContext) -> None:
        """A short stage runs again on a quarter of the prompts and on all: its first time is mostly the first use of
        kernels and files, and a part of every time does not depend on the number of prompts. The quarter's batches have
        sizes of their own: its first time has what a GPU does for a new size, its second has not."""
        self.timed(name, stage)
        run = self.context.run
        number, few = len(_prompts(run)), len(_prompts(quarter.run))
        self.found.each[name] = self.found.work[name] / number
        if self.repeat and number >= _FEWEST and self.found.work[name] < _SHORT:
            first = self.once(stage, quarter)[0]
            shutil.rmtree(quarter.run.path / name)
            less = self.once(stage, quarter)[0]
            shutil.rmtree(run.path / name)
            more = self.once(stage, self.context)[0]
            self.found.each[name] = max(0.0, more - less) / (number - few)
            self.found.quarter[name] = max(0.0, first - less)


def _measured(
    recipe: LanguageRecipe,
    run: RunFolder,
    checks: float,
    compiled: Callable[[], float],
    tell: Callable[[str], None],
) -> Measured:
    models = _TimedModels(recipe, run)
    context = LanguageContext(recipe=recipe, run=run, models=models)
    found = Measured(checks=checks, steps=recipe.training.steps or 0)
    # What an endpoint answered is kept, so a second time would say nothing.
    repeat = not asks_endpoint(recipe)
    clock = _Clock(context=context, models=models, found=found, compiled=compiled, tell=tell, repeat=repeat)
    with run.locked():
        clock.timed("prepare", prepare)
        describe(recipe, run)
        quarter = replace(context, run=_quarter(run))
        clock.scaled("respond", respond, quarter)
        clock.scaled("score", score, quarter)
        if recipe.responses.when == "before" and needs_reference(recipe.methods):
            clock.scaled("reference", reference, quarter)
        clock.timed("evaluate before", lambda context: evaluate_student(context, "before", None))
        clock.timed("evaluate teacher", evaluate_teacher)
        for method in recipe.methods:
            tell(f"train {method.label}")
            _train(context, method, found, clock.compiled)
        trained = f"{recipe.methods[0].label}-seed{recipe.seeds[0]}"
        clock.timed("evaluate", lambda context: evaluate_student(context, "after", trained))
        found.sampling = _sampling(context)
        found.groups = read_groups(run, "train")
        found.report = report_seconds(recipe, run.path)
        found.prompts = {split: _prompts(run).count(split) for split in ("train", "heldout")}
    return found


def _prompts(run: RunFolder) -> list[str]:
    """The split of every prompt."""
    return [record["split"] for record in read_table(run.path / "prepare" / "prompts.parquet", ["split"])]


def _quarter(run: RunFolder) -> RunFolder:
    """Another run's folder with every fourth of the prompts."""
    made, own = RunFolder(run.path / "quarter"), run.path / "prepare"
    shutil.copytree(own, made.path / "prepare", ignore=shutil.ignore_patterns("*.safetensors"))
    prompts = pq.read_table(own / "prompts.parquet")
    pq.write_table(prompts.take(list(range(0, len(prompts), 4))), made.path / "prepare" / "prompts.parquet")
    return made


def _train(context: LanguageContext, method: Method, found: Measured, compiled: Callable[[], float]) -> None:
    """A few steps of one method: the median time of one, what the rest took, and the peak of memory."""
    peak, before = peak_from_now(context.models.device), compiled()
    begin = time.perf_counter()
    folder = train_student(context, method, context.recipe.seeds[0])
    spent = time.perf_counter() - begin
    lines = json_lines(folder / "metrics.jsonl")
    seconds = [1 / line["steps_per_second"] for line in lines if line["step"] > lines[0]["step"]]
    found.step[method.label] = statistics.median(seconds)
    own = lines[-1]["seconds"] - (compiled() - before)
    found.first[method.label] = max(0.0, own - lines[-1]["step"] * found.step[method.label])
    found.saving[method.label] = max(0.0, spent - lines[-1]["seconds"])
    found.peak[method.label] = peak()


def _sampling(context: LanguageContext) -> float:
    """Seconds of a student's sample answers."""
    student = context.models.student().to(context.models.device).eval()
    begin = time.perf_counter()
    sample_answers(context, student)
    return time.perf_counter() - begin
