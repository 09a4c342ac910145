"""`grkd run` and `grkd compare` for classifiers: one path. A comparison adds the search before the final runs."""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from grkd.classify.check import check_classifier
from grkd.classify.context import ClassifierContext
from grkd.classify.data import Classifier
from grkd.classify.engine import in_lockstep
from grkd.classify.evaluate import evaluate_teacher
from grkd.classify.prepare import prepare
from grkd.classify.score import score, score_copies
from grkd.classify.student import describe_classifier
from grkd.classify.teach import alone, teach
from grkd.classify.train import train_group
from grkd.compare.best import keep_best
from grkd.compare.comparison import Comparison
from grkd.compare.student_job import StudentJob
from grkd.recipe import ClassifierRecipe
from grkd.run.folder import RunFolder
from grkd.run.results import describe


class ClassifierComparison(Comparison):
    """Students of a group see the same batches. processes: that share the device, each training groups in lock-step."""

    train_group = staticmethod(train_group)

    def __init__(self, recipe: ClassifierRecipe, run: RunFolder) -> None:
        self.context = ClassifierContext(recipe, run)
        super().__init__(self.context)

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

    def together(self, jobs: Sequence[StudentJob], processes: int) -> list[tuple[StudentJob, ...]]:
        """In groups of one seed each."""
        recipe = self.context.recipe
        most = recipe.lockstep.students if in_lockstep(recipe) else 1
        most = max(1, min(most, math.ceil(len(jobs) / processes)))
        return [
            part
            for seed in dict.fromkeys(job.seed for job in jobs)
            for part in _evenly([job for job in jobs if job.seed == seed], most)
        ]

    def keep_best(self, jobs: Sequence[StudentJob]) -> None:
        """Copy the best student to best/; with keep: all each method's best seed goes to best/<label>/ as well."""
        keep_best(
            self.context.run,
            jobs,
            by=[self.context.metric],
            every_method=self.context.recipe.keep == "all",
            describe=self._describe,
        )

    @cached_property
    def _student(self) -> Classifier:
        return self.context.view(self.context.recipe.student)

    def _describe(self, folder: Path, about: dict[str, Any]) -> None:
        """Beside a model: all that loading it needs, and how it was chosen."""
        spec, first = self.context.recipe.student, self._student.train_inputs[0]
        needed = {
            "model": spec.model,
            "options": spec.options,
            "class_names": self.context.class_names,
            "input_shape": list(first.shape) if isinstance(first, Tensor) else None,
        }
        describe_classifier(folder, self._student, needed | about)


def _evenly(jobs: Sequence[StudentJob], most: int) -> Iterator[tuple[StudentJob, ...]]:
    """Parts of nearly equal size, `most` at most."""
    count = math.ceil(len(jobs) / most)
    for number in range(count):
        yield tuple(jobs[number * len(jobs) // count : (number + 1) * len(jobs) // count])
