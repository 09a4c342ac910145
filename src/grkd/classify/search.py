"""The search of a comparison of classifiers: what it may set, what it goes by, and each method's study."""

from collections.abc import Mapping
from typing import Any

from grkd.classify.context import ClassifierContext
from grkd.classify.metrics import NEAR_TEACHER, ON_VALIDATION, Metrics
from grkd.classify.train import NOT_FINITE, student_inputs
from grkd.compare.student_job import StudentJob, job_at
from grkd.compare.study import Study, study_of
from grkd.errors import UserError
from grkd.files import digest
from grkd.recipe import Search


def metric(search: Search) -> str:
    """What the search goes by."""
    return search.metric or "accuracy"


def check_metric(search: Search, *, order_only: bool = False) -> None:
    """Reject an unknown search metric, and the nearness to probabilities of a teacher that has none (order_only)."""
    known = [name for name in ON_VALIDATION if not (order_only and name in NEAR_TEACHER)]
    if metric(search) not in known:
        what = (
            "the teacher gives an order and no probabilities for"
            if metric(search) in NEAR_TEACHER
            else "unknown metric"
        )
        raise UserError(f"search.metric: {what} {search.metric!r}; available: {', '.join(known)}")


def method_study(context: ClassifierContext, label: str) -> Study:
    """A method's study in the run folder; the same in every process."""
    recipe = context.recipe
    search, method = recipe.search, next(each for each in recipe.methods if each.label == label)
    assert search is not None
    inputs = student_inputs(context, job_at(StudentJob, recipe, method, {"learning_rate": 1.0}, 0))
    measured = {"metric": metric(search), "fraction": search.validation_fraction}
    lockstep = {"search_epochs": recipe.lockstep.search_epochs, "prune": recipe.lockstep.prune}
    key = digest({**inputs, "search": {**measured, **lockstep}})
    return study_of(context.run.path, recipe, method, metric=metric(search), key=key)


def tell_trial(
    context: ClassifierContext,
    job: StudentJob,
    metrics: Metrics,
    *,
    failure: str | None = None,
    stopped_after: int | None = None,
    spent: Mapping[str, Any],
) -> None:
    """Note how a trial ended. One whose scores are not finite would end so again: no other command repeats it."""
    search = context.recipe.search
    assert search is not None
    assert job.trial is not None
    values = {name: found["value"] for name, found in metrics.items()}
    value = values.get(metric(search))
    lost = failure is None and value is None
    method_study(context, job.method.label).tell(
        job.trial,
        value=value,
        stopped_after=stopped_after,
        failure=NOT_FINITE if lost else failure,
        lasting=lost,
        details={**spent, "metrics": values},
    )
