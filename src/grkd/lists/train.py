"""The third stage: students, one per method and seed, trained by transformers' Trainer; a kill leaves checkpoints."""

from collections.abc import Sequence
from pathlib import Path

from grkd import objectives
from grkd.compare.student_job import StudentJob
from grkd.compare.task import train_alone
from grkd.files import digest
from grkd.lists.card import card_of
from grkd.lists.context import TRAIN, VALIDATION, RankContext
from grkd.lists.evaluate import evaluate_student, validation_metrics
from grkd.lists.rows import ListRows
from grkd.lists.score import signal
from grkd.lists.student import Student, new_student, opened, save_student
from grkd.recipe import RankRecipe
from grkd.run.folder import RunFolder, identity


def train_group(jobs: Sequence[StudentJob]) -> None:
    """Train, measure and write the students."""
    recipe = jobs[0].recipe
    assert isinstance(recipe, RankRecipe)
    context = RankContext(recipe, RunFolder(Path(recipe.output)))
    for job in jobs:
        _train_one(context, job)


def evaluate_before(context: RankContext) -> None:
    """The student before distillation, at the first seed."""
    key = digest([identity(context.recipe.student), context.seed])
    evaluate_student(context, "before", lambda: new_student(context, seed=context.seed), key)


def _train_one(context: RankContext, job: StudentJob) -> None:
    train_alone(
        context,
        job,
        train=lambda work: _trained(context, job, work),
        measure=lambda student: validation_metrics(context, student),
        save=lambda student, folder: save_student(
            student, folder, card_of(context, job.method, job.seed, job.learning_rate)
        ),
    )
    if job.trial is None:
        folder, key = context.run.path / "train" / job.name / "model", context.run.key(f"train/{job.name}")
        spec = context.recipe.student
        evaluate_student(context, job.name, lambda: opened(str(folder), spec, context.device), key)


def _trained(context: RankContext, job: StudentJob, work: Path) -> Student:
    from grkd.run.training import train

    objective = objectives.load(job.method.name, **job.method.options)
    student, search = new_student(context, seed=job.seed), job.trial is not None
    queries = context.search_queries[0] if search else context.lists.of(TRAIN, VALIDATION)
    train(
        student,
        queries.tolist(),
        objective=objective,
        rows=ListRows(student, context.lists, signal(context, objective)),
        training=context.training_at(job.learning_rate, search=search),
        folder=work,
        seed=job.seed,
        where=context.device,
        bf16=False,
        description=f"{'search' if search else 'train'} {job.name}",
    )
    return student
