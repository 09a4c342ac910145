"""The third stage: students, one per method and seed, trained by transformers' Trainer; a kill leaves checkpoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from grkd import objectives
from grkd.compare.student_job import StudentJob, job_at
from grkd.compare.study import Study, study_of
from grkd.errors import UserError
from grkd.files import digest, read_json, write_json
from grkd.lists.card import card_of
from grkd.lists.context import TRAIN, VALIDATION, RankContext
from grkd.lists.evaluate import evaluate_student, validation_metrics
from grkd.lists.metrics import ON_VALIDATION
from grkd.lists.rows import ListRows
from grkd.lists.score import signal
from grkd.lists.student import Student, new_student, opened, save_student
from grkd.recipe import RankRecipe, to_plain
from grkd.run.folder import RunFolder, identity

# Of the training section: a student has a learning rate of its own, and the rest changes no student.
_NO_EFFECT = (
    *("learning_rate", "log_every", "save_every", "report_to"),
    *("steps_per_generation", "fused_head", "float32_masters"),
)


@dataclass(frozen=True, kw_only=True)
class RankJob(StudentJob):
    """One student."""

    recipe: RankRecipe


def train_student(job: RankJob) -> None:
    """Train, measure and write one student."""
    context = RankContext(job.recipe, RunFolder(Path(job.recipe.output)))
    if job.trial is not None:
        _trial(context, job)
        return
    inputs = student_inputs(context, job)

    def make(work: Path) -> None:
        from grkd.run.training import drop_checkpoints

        student = _trained(context, job, work, search=False)
        if context.run.ranks.is_main_process:
            save_student(student, work / "model", card_of(context, job.method, job.seed, job.learning_rate))
            drop_checkpoints(work)

    folder = context.run.stage(f"train/{job.name}", inputs, make) / "model"
    evaluate_student(
        context,
        job.name,
        lambda: opened(str(folder), job.recipe.student, context.device),
        context.run.key(f"train/{job.name}"),
    )


def evaluate_before(context: RankContext) -> None:
    """The student before distillation, at the first seed."""
    key = digest([identity(context.recipe.student), context.seed])
    evaluate_student(context, "before", lambda: new_student(context, seed=context.seed), key)


def student_inputs(context: RankContext, job: RankJob) -> dict[str, Any]:
    """What a trained student depends on."""
    recipe, teacher = context.recipe, context.recipe.teacher
    training = {name: value for name, value in to_plain(recipe.training).items() if name not in _NO_EFFECT}
    return {
        "method": job.method_identity,
        "learning_rate": job.learning_rate,
        "seed": job.seed,
        "student": identity(recipe.student),
        "training": training,
        "seen": {name: getattr(teacher, name) for name in ("says", "top", "places_as_scores")},
        **context.keys(),
    }


def _trial(context: RankContext, job: RankJob) -> None:
    """Train a trial without the validation queries, and keep only its metrics there."""
    recipe, main = context.recipe, context.run.ranks.is_main_process
    inputs = {**student_inputs(context, job), "search": digest(to_plain(recipe)["search"])}

    def make(work: Path) -> None:
        from grkd.run.training import drop_checkpoints

        student = _trained(context, job, work, search=True)
        if main:
            write_json(work / "metrics.json", validation_metrics(context, student))
            drop_checkpoints(work)

    folder = context.run.stage(f"search/{job.name}", inputs, make)
    if main:
        spent = read_json(folder / "training.json")
        values = {name: found["value"] for name, found in read_json(folder / "metrics.json").items()}
        value = values.get(metric(context))
        assert job.trial is not None
        method_study(context, job.method.label).tell(
            job.trial,
            value=value,
            failure="its validation queries give no value" if value is None else None,
            lasting=value is None,
            details={"steps": spent["steps"], "seconds": spent["seconds"], "metrics": values},
        )


def _trained(context: RankContext, job: RankJob, work: Path, *, search: bool) -> Student:
    from grkd.run.training import train

    objective = objectives.load(job.method.name, **job.method.options)
    student = new_student(context, seed=job.seed)
    train(
        student,
        queries_of(context, search=search).tolist(),
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


def queries_of(context: RankContext, *, search: bool) -> Tensor:
    """Queries that a student is trained on: a trial leaves the validation part out."""
    return context.search_queries[0] if search else context.lists.of(TRAIN, VALIDATION)


def metric(context: RankContext) -> str:
    """What the search goes by: NDCG by people's grades, or without any Kendall's tau with the teacher."""
    search = context.recipe.search
    assert search is not None
    return search.metric or ("list_ndcg10" if bool(context.lists.grades.isfinite().any()) else "kendall_tau")


def check_metric(name: str) -> None:
    """Reject an unknown search metric."""
    if name not in ON_VALIDATION:
        raise UserError(f"search.metric: unknown metric {name!r}; available: {', '.join(ON_VALIDATION)}")


def method_study(context: RankContext, label: str) -> Study:
    """A method's study in the run folder; the same in every process."""
    recipe = context.recipe
    search, method = recipe.search, next(each for each in recipe.methods if each.label == label)
    assert search is not None
    inputs = student_inputs(context, job_at(RankJob, recipe, method, {"learning_rate": 1.0}, 0))
    measured = {"metric": metric(context), "fraction": search.validation_fraction, "share": search.steps_share}
    key = digest({**inputs, "search": measured})
    return study_of(context.run.path, recipe, method, metric=metric(context), key=key)
