"""A miniature of a language run, timed stage by stage: the run's own code on a few prompts and steps."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

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
from grkd.recipe import LanguageRecipe, Method
from grkd.reports import read_run, write_page
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE
from grkd.run.results import collect, describe
from grkd.training.callbacks import json_lines

_STEPS = 8  # optimiser steps per method
_EVERY = 4  # steps between logs, each of which waits for the GPU; those up to the first are not counted


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

    step: of one optimiser step, by method. saving: of a student's training without its steps. peak: bytes allocated on
    the GPU in training, by method. report: of results and page. groups: the training part. prompts: of both parts.
    """

    work: dict[str, float] = field(default_factory=dict)
    loading: dict[str, float] = field(default_factory=dict)
    step: dict[str, float] = field(default_factory=dict)
    saving: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    report: float = 0.0
    sampling: float = 0.0  # of the sample answers
    groups: list[Group] = field(default_factory=list)
    prompts: dict[str, int] = field(default_factory=dict)


def measure(recipe: LanguageRecipe) -> Measured:
    """Run every stage on a few prompts and every method for a few steps, in a folder that is deleted.

    Raises UserError as the run.
    """
    quiet, console.quiet = console.quiet, True
    try:
        with tempfile.TemporaryDirectory(prefix="grkd-plan-") as place:
            return _measured(small(recipe, Path(place)), RunFolder(Path(place)))
    finally:
        console.quiet = quiet


def small(recipe: LanguageRecipe, folder: Path) -> LanguageRecipe:
    """The recipe on as few prompts as fill two steps, with the same batches, lengths and evaluation."""
    training, gpu = recipe.training, torch.cuda.is_available() and recipe.device != "cpu"
    per_step = training.batch_size * training.gradient_accumulation
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
            training, steps=_STEPS, epochs=1.0, log_every=_EVERY, save_every=10**6, report_to="none", minutes=None
        ),
        evaluation=replace(recipe.evaluation, questions=None, curve_questions=None),
    )


def _measured(recipe: LanguageRecipe, run: RunFolder) -> Measured:
    models = _TimedModels(recipe, run)
    context = LanguageContext(recipe=recipe, run=run, models=models)
    found = Measured()

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        before, begin = models.loading, time.perf_counter()
        yield
        found.loading[name] = models.loading - before
        found.work[name] = time.perf_counter() - begin - found.loading[name]

    with run.locked():
        with timed("prepare"):
            prepare(context)
        describe(recipe, run)
        for name, stage in (("respond", respond), ("score", score)):
            with timed(name):
                stage(context)
        if recipe.responses.when == "before" and needs_reference(recipe.methods):
            with timed("reference"):
                reference(context)
        with timed("evaluate before"):
            evaluate_student(context, "before", None)
        with timed("evaluate teacher"):
            evaluate_teacher(context)
        for method in recipe.methods:
            _train(context, method, found)
        with timed("evaluate"):
            evaluate_student(context, "after", f"{recipe.methods[0].label}-seed{recipe.seeds[0]}")
        found.sampling = _sampling(context)
        found.groups = read_groups(run, "train")
        found.report = _report(recipe, run)
        prompts = [record["split"] for record in read_table(run.path / "prepare" / "prompts.parquet", ["split"])]
        found.prompts = {split: prompts.count(split) for split in ("train", "heldout")}
    return found


def _train(context: LanguageContext, method: Method, found: Measured) -> None:
    """A few steps of one method: the median time of one, what the rest took, and the GPU's peak."""
    cuda = context.models.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    folder = train_student(context, method, context.recipe.seeds[0])
    spent = time.perf_counter() - begin
    lines = json_lines(folder / "metrics.jsonl")
    seconds = [1 / line["steps_per_second"] for line in lines if line["step"] > _EVERY]
    found.step[method.label] = statistics.median(seconds)
    found.saving[method.label] = max(0.0, spent - lines[-1]["seconds"])
    if cuda:
        found.peak[method.label] = torch.cuda.max_memory_allocated()


def _report(recipe: LanguageRecipe, run: RunFolder) -> float:
    """Seconds of results and page."""
    begin = time.perf_counter()
    collect(recipe, run.path, {f"{method.label}-seed{recipe.seeds[0]}": DONE for method in recipe.methods})
    write_page([read_run(run.path)], run.path / "report.html")
    return time.perf_counter() - begin


def _sampling(context: LanguageContext) -> float:
    """Seconds of a student's sample answers."""
    student = context.models.student().to(context.models.device).eval()
    begin = time.perf_counter()
    sample_answers(context, student)
    return time.perf_counter() - begin
