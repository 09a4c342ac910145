"""What stands beside a kept classifier: all that loading it needs, and how it was chosen."""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from grkd.classify.context import ClassifierContext
from grkd.classify.search import metric
from grkd.classify.student import describe_classifier
from grkd.compare.best import keep_best
from grkd.compare.student_job import StudentJob


def keep_best_classifier(context: ClassifierContext, jobs: Sequence[StudentJob]) -> None:
    """Copy the best student to best/; with keep: all each method's best seed goes to best/<label>/ as well."""
    recipe = context.recipe
    view = cache(partial(context.view, recipe.student))

    def describe(_: StudentJob, folder: Path, about: dict[str, Any]) -> None:
        first = view().train_inputs[0]
        needed = {
            "model": recipe.student.model,
            "options": recipe.student.options,
            "class_names": context.class_names,
            "input_shape": list(first.shape) if isinstance(first, Tensor) else None,
        }
        describe_classifier(folder, view(), needed | about)

    by = metric(recipe.search) if recipe.search is not None else "accuracy"
    keep_best(context.run, jobs, by=[by], every_method=recipe.keep == "all", describe=describe)
