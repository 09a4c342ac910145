"""A classifier's last stage: what a student or the teacher reaches on held-out examples."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from grkd.classify.context import ClassifierContext
from grkd.classify.metrics import Metrics, Targets, class_counts, classifier_metrics
from grkd.classify.score import teacher_outputs
from grkd.files import read_json, write_json
from grkd.recipe import RankedLabels
from grkd.run.cost import measured, pace_of, stored_cost, without_prices

# Loads a student. What it gives computes logits of held-out examples, and of the inputs of no class if there are any.
Opened = Callable[[], Callable[[], tuple[Tensor, Tensor | None]]]


def evaluate_teacher(context: ClassifierContext) -> Path:
    """Leave evaluate/teacher/metrics.json, confusion.json and cost.json."""
    inputs = {"evaluation": without_prices(context.recipe.evaluation), **context.keys()}

    def make(work: Path) -> None:
        outputs = teacher_outputs(context)
        targets = heldout_targets(context, teacher=False)
        found = classifier_metrics(outputs["heldout"], targets, outside=outputs.get("outside"))
        if isinstance(context.recipe.teacher, RankedLabels):  # places are no probabilities, and there is no model
            found = {name: each for name, each in found.items() if "accuracy" in name}
        else:
            pace = read_json(context.teacher_run.path / "score" / "pace.json")
            write_json(work / "cost.json", stored_cost(context.teacher_run.path / "teach" / "model") | pace)
        write_json(work / "metrics.json", found)
        write_json(work / "confusion.json", class_counts(outputs["heldout"], targets.labels, context.class_names))

    return context.run.stage("evaluate/teacher", inputs, make, main_only=True)


def evaluate_student(context: ClassifierContext, name: str, opened: Opened, *, batch_size: int) -> Path:
    """Leave evaluate/<name>/metrics.json, confusion.json and cost.json.

    opened: the student, if it is needed. batch_size: examples that it reads at a time.
    """
    inputs = {
        "evaluation": without_prices(context.recipe.evaluation),
        "model": context.run.key(f"train/{name}"),
        **context.keys(),
    }

    def make(work: Path) -> None:
        scored = opened()
        (logits, outside), seconds, peak = measured(
            lambda: [None if one is None else one.cpu() for one in scored()], context.device
        )
        assert logits is not None
        targets = heldout_targets(context)
        write_json(work / "metrics.json", classifier_metrics(logits, targets, outside=outside))
        write_json(work / "confusion.json", class_counts(logits, targets.labels, context.class_names))
        examples = len(logits) + (0 if outside is None else len(outside))
        cost = stored_cost(context.run.path / "train" / name / "model")
        write_json(work / "cost.json", cost | pace_of(examples, seconds, peak, batch_size=batch_size))

    return context.run.stage(f"evaluate/{name}", inputs, make, main_only=True)


def heldout_targets(context: ClassifierContext, *, teacher: bool = True) -> Targets:
    """The held-out part. teacher: compared with the teacher's scores, too."""
    labels = context.labels
    return Targets(
        labels=labels["heldout_labels"],
        teacher=teacher_outputs(context)["heldout"] if teacher else None,
        order_only=isinstance(context.recipe.teacher, RankedLabels),
        votes=labels.get("votes"),
        groups=context.class_groups,
        look_alikes=read_json(context.run.path / "prepare" / "look_alikes.json"),
    )


def validation_metrics(context: ClassifierContext, logits: Tensor) -> Metrics:
    """What a search may go by, on the validation part of the training examples, without intervals."""
    _, rows = context.search_rows
    targets = Targets(
        labels=context.labels["labels"][rows],
        teacher=teacher_outputs(context)["train"][rows],
        order_only=isinstance(context.recipe.teacher, RankedLabels),
    )
    return classifier_metrics(logits.cpu(), targets, intervals=False)
