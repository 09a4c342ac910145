"""`grkd run` and `grkd compare` for lists: one path. A comparison adds the search before the final runs."""

from collections.abc import Callable, Sequence
from typing import Any

from grkd.compare.comparison import Comparison
from grkd.compare.study import Study
from grkd.console import console
from grkd.lists.best import keep_best_ranker
from grkd.lists.check import check_rank
from grkd.lists.context import RankContext
from grkd.lists.evaluate import evaluate_teacher
from grkd.lists.prepare import prepare
from grkd.lists.score import score
from grkd.lists.train import (
    RankJob,
    check_metric,
    evaluate_before,
    method_study,
    metric,
    student_inputs,
    train_student,
)
from grkd.ranks import is_past
from grkd.recipe import RankRecipe
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, run_jobs
from grkd.run.results import describe


class ListComparison(Comparison[RankJob]):
    """Students are trained one at a time per process."""

    job_type = RankJob

    def __init__(self, recipe: RankRecipe, run: RunFolder) -> None:
        super().__init__(recipe, run)
        self.context = RankContext(recipe, run)

    @property
    def metric(self) -> str:
        return metric(self.context)

    def prepare(self) -> None:
        """Mistakes are found first, then lists, the teacher's scores and the baselines."""
        context = self.context
        check_rank(context)
        prepare(context)
        describe(context.recipe, context.run)
        if context.recipe.search is not None:
            check_metric(metric(context))
            _ = context.search_queries  # too few are found before the teacher is asked
        score(context)
        evaluate_teacher(context)
        evaluate_before(context)

    def study(self, label: str) -> Study:
        return method_study(self.context, label)

    def inputs(self, job: RankJob) -> dict[str, Any]:
        return student_inputs(self.context, job)

    def train(
        self,
        jobs: list[RankJob],
        *,
        processes: int,
        deadline: float | None,
        description: str,
        failed: Callable[[RankJob, str], None],
        note: Callable[[], None],
    ) -> None:
        queue = list(jobs)
        for job, outcome in run_jobs(queue, train_student, processes=processes, description=description):
            if outcome != DONE:
                console.print(f"[red]{job.name}: {outcome}[/red]")
                failed(job, outcome.removeprefix("failed: "))
            note()
            if is_past(deadline):
                queue.clear()

    def keep_best(self, jobs: Sequence[RankJob]) -> None:
        keep_best_ranker(self.context, jobs)
