"""`grkd run` and `grkd compare` for classifiers: one path. A comparison adds the search before the final runs."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from grkd.classify.best import keep_best_classifier
from grkd.classify.check import check_classifier
from grkd.classify.context import ClassifierContext, in_lockstep
from grkd.classify.evaluate import evaluate_teacher
from grkd.classify.prepare import prepare
from grkd.classify.score import score, score_copies
from grkd.classify.search import method_study, metric
from grkd.classify.teach import alone, teach
from grkd.classify.train import JobGroup, student_inputs, train_group
from grkd.compare.comparison import Comparison
from grkd.compare.student_job import StudentJob
from grkd.compare.study import Study
from grkd.console import console
from grkd.recipe import ClassifierRecipe
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, run_jobs
from grkd.run.results import describe


class ClassifierComparison(Comparison[StudentJob]):
    """Students of a group see the same batches. processes: that share the device, each training groups in lock-step."""

    job_type = StudentJob

    def __init__(self, recipe: ClassifierRecipe, run: RunFolder) -> None:
        super().__init__(recipe, run)
        self.context = ClassifierContext(recipe, run)

    @property
    def metric(self) -> str:
        assert self.context.recipe.search is not None
        return metric(self.context.recipe.search)

    def prepare(self) -> None:
        """Mistakes are found first, then data, teacher and its scores."""
        context = self.context
        check_classifier(context)
        prepare(context)
        describe(context.recipe, context.run)
        with alone(context):
            teach(context)
            score(context)
        score_copies(context)
        evaluate_teacher(context)

    def study(self, label: str) -> Study:
        return method_study(self.context, label)

    def inputs(self, job: StudentJob) -> dict[str, Any]:
        return student_inputs(self.context, job)

    def train(
        self,
        jobs: list[StudentJob],
        *,
        processes: int,
        deadline: float | None,
        description: str,
        failed: Callable[[StudentJob, str], None],
        note: Callable[[], None],
    ) -> None:
        """In groups of one seed each."""
        recipe = self.context.recipe
        most = recipe.lockstep.students if in_lockstep(recipe) else 1
        most = max(1, min(most, math.ceil(len(jobs) / processes)))
        groups = [
            JobGroup(recipe=recipe, jobs=part, deadline=deadline)
            for seed in dict.fromkeys(job.seed for job in jobs)
            for part in _evenly([job for job in jobs if job.seed == seed], most)
        ]
        for group, outcome in run_jobs(groups, train_group, processes=processes, description=description):
            if outcome != DONE:
                console.print(f"[red]{', '.join(job.name for job in group.jobs)}: {outcome}[/red]")
                for job in group.jobs:
                    failed(job, outcome.removeprefix("failed: "))
            note()

    def keep_best(self, jobs: Sequence[StudentJob]) -> None:
        keep_best_classifier(self.context, jobs)


def _evenly(jobs: Sequence[StudentJob], most: int) -> Iterator[tuple[StudentJob, ...]]:
    """Parts of nearly equal size, `most` at most."""
    count = math.ceil(len(jobs) / most)
    for number in range(count):
        yield tuple(jobs[number * len(jobs) // count : (number + 1) * len(jobs) // count])
