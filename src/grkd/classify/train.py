"""A classifier's fourth stage: students, one per method and seed, by the way of training that the recipe asks for."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from grkd.classify.context import ClassifierContext
from grkd.classify.engine import in_lockstep
from grkd.compare.student_job import StudentJob
from grkd.data.splits import stratified_sample
from grkd.files import digest
from grkd.recipe import ClassifierRecipe, to_plain
from grkd.run.folder import RunFolder

_opened: dict[str, ClassifierContext] = {}  # the last one, by all that its data and teacher were made from


def train_group(jobs: Sequence[StudentJob]) -> None:
    """Train and measure students of one seed, in this process or one of its own, and write what became of each."""
    from grkd.classify import lockstep, one_by_one

    recipe = jobs[0].recipe
    assert isinstance(recipe, ClassifierRecipe)
    context = opened(recipe)
    if in_lockstep(recipe):
        lockstep.train_together(context, jobs)
    else:
        for job in jobs:
            one_by_one.train_one(context, job)


def training_rows(context: ClassifierContext, *, seed: int, search: bool) -> Tensor | None:
    """Positions of the training examples that students see; None: all."""
    recipe, labels = context.recipe, context.labels["labels"]
    limit = recipe.data.student_limit
    if not search:
        return None if limit is None else stratified_sample(labels, limit, seed=seed)
    assert recipe.search is not None
    fit = context.search_rows[0]
    if limit is not None:
        classes = len(labels[fit].unique())  # each of them keeps an example
        size = max(classes, round(limit * (1 - recipe.search.validation_fraction)))
        fit = fit[stratified_sample(labels[fit], size, seed=context.seed)]
    return fit


def opened(recipe: ClassifierRecipe) -> ClassifierContext:
    """The context with its data on the device, kept by the process from group to group."""
    context = ClassifierContext(recipe, RunFolder(Path(recipe.output)))
    key = digest([to_plain(recipe), str(context.run.path.resolve()), context.keys()])
    if key not in _opened:
        _opened.clear()
        _opened[key] = context
    return _opened[key]
