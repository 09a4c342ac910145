"""The students of a finished run that are worth keeping: best/, and on request each method's best seed."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from grkd.classify.context import ClassifierContext
from grkd.classify.data import Classifier
from grkd.classify.search import metric
from grkd.classify.student import describe_classifier
from grkd.classify.train import StudentJob
from grkd.files import read_json
from grkd.metrics.registry import higher_is_better

_NOTE = (
    "Chosen by the held-out metric: among many students the best one is also lucky, so its own metric is too good. "
    "The means over seeds are in results.json."
)


def keep_best(context: ClassifierContext, jobs: Sequence[StudentJob]) -> None:
    """Copy the best student to best/: of the method with the best mean over its seeds, the best seed.

    With keep: all each method's best seed goes to best/<label>/ as well. Nothing is kept if no student has a value.
    """
    by = metric(context.recipe.search) if context.recipe.search is not None else "accuracy"
    sign = 1.0 if higher_is_better(by) else -1.0
    values: dict[str, list[tuple[float, StudentJob]]] = {}
    for job in jobs:
        value = read_json(context.run.path / "evaluate" / job.name / "metrics.json").get(by, {}).get("value")
        if value is not None:
            values.setdefault(job.method.label, []).append((sign * value, job))
    if not values:
        return
    means = {label: sum(value for value, _ in own) / len(own) for label, own in values.items()}
    chosen = {label: max(own, key=lambda each: each[0])[1] for label, own in values.items()}
    winner = chosen[max(means, key=means.__getitem__)]
    kept = {".": winner, **(chosen if context.recipe.keep == "all" else {})}
    inputs = {
        "chosen_by": by,
        "kept": {place: [job.name, context.run.key(f"evaluate/{job.name}")] for place, job in kept.items()},
    }

    def make(work: Path) -> None:
        if context.run.ranks.is_main_process:
            classifier = context.view(context.recipe.student)
            for place, job in kept.items():
                _copy(context, job, by, classifier, work / place)

    context.run.stage("best", inputs, make)


def _copy(context: ClassifierContext, job: StudentJob, by: str, classifier: Classifier, folder: Path) -> None:
    run, spec, first = context.run.path, context.recipe.student, classifier.train_inputs[0]
    shutil.copytree(run / "train" / job.name / "model", folder / "model", dirs_exist_ok=True)
    metrics = read_json(run / "evaluate" / job.name / "metrics.json")
    about: dict[str, Any] = {
        "model": spec.model,
        "options": spec.options,
        "class_names": context.class_names,
        "input_shape": list(first.shape) if isinstance(first, Tensor) else None,
        "method": job.method.name,
        "label": job.method.label,
        "seed": job.seed,
        "settings": job.settings,
        "chosen_by": by,
        "note": _NOTE,
        "metrics": {name: found["value"] for name, found in metrics.items()},
    }
    describe_classifier(folder, classifier, about)
