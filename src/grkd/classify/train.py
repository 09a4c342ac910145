"""A classifier's fourth stage: students, one per method and seed, by the way of training that the recipe asks for."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from grkd.classify.context import ClassifierContext, in_lockstep
from grkd.compare.student_job import StudentJob
from grkd.data.splits import stratified_sample
from grkd.files import digest
from grkd.ranks import is_past
from grkd.recipe import ClassifierRecipe, to_plain
from grkd.run.folder import RunFolder, identity

NOT_FINITE = "its scores are not finite"
# Of the training section: a student has a learning rate of its own, and the rest changes no student.
_NO_EFFECT = (
    *("learning_rate", "log_every", "save_every", "report_to"),
    *("steps_per_generation", "fused_head", "tokens_per_batch", "compile"),  # of language models
    *("gradient_checkpointing", "float32_masters"),
)


@dataclass(frozen=True, kw_only=True)
class JobGroup:
    """Students of one seed that a process trains at one go; all are trials of the search, or none is.

    deadline: a time as of time.time(), after which the group is not begun.
    """

    recipe: ClassifierRecipe
    jobs: tuple[StudentJob, ...]
    deadline: float | None = None


def train_group(group: JobGroup) -> None:
    """Train and measure the students (in a process of its own, or in this one), and write what became of each."""
    from grkd.classify import lockstep, one_by_one

    if is_past(group.deadline):
        return
    context = opened(group.recipe)
    if in_lockstep(group.recipe):
        lockstep.train_together(context, group.jobs)
    else:
        for job in group.jobs:
            one_by_one.train_alone(context, job)


def student_inputs(context: ClassifierContext, job: StudentJob) -> dict[str, Any]:
    """What a trained student depends on."""
    recipe = context.recipe
    lockstep = to_plain(recipe.lockstep)
    training = {name: value for name, value in to_plain(recipe.training).items() if name not in _NO_EFFECT}
    return {
        "method": job.method_identity,
        "learning_rate": job.learning_rate,
        "seed": job.seed,
        "student": identity(recipe.student),
        "training": training,
        "lockstep": {name: lockstep[name] for name in ("optimizer", "momentum", "augment")}
        if in_lockstep(recipe)
        else None,
        "student_limit": recipe.data.student_limit,
        **context.keys(),
    }


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


class _Hashed:
    """A context as the key of a cache: by its recipe, its place, and what its data and teacher were made from."""

    def __init__(self, context: ClassifierContext) -> None:
        self.context = context
        where = str(context.run.path.resolve())
        self.key = digest([to_plain(context.recipe), where, context.keys()])

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self.key == other.key


def opened(recipe: ClassifierRecipe) -> ClassifierContext:
    """The context with its data on the device, kept by the process from group to group."""
    return _kept(_Hashed(ClassifierContext(recipe, RunFolder(Path(recipe.output)))))


@lru_cache(maxsize=1)
def _kept(hashed: _Hashed) -> ClassifierContext:
    return hashed.context
