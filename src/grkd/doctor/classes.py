"""The checks of a classifier's recipe: labels, overlap, lengths, and a loaded teacher on the held-out examples."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from grkd.classify.context import ClassifierContext
from grkd.classify.data import Classifier
from grkd.classify.score import scored
from grkd.data.classification import ClassificationData
from grkd.doctor.finding import Finding, note, warning
from grkd.doctor.settings import few_steps
from grkd.models.networks import is_transformers
from grkd.recipe import ClassifierRecipe, RankedLabels
from grkd.run.folder import RunFolder

_EXAMPLES = 512  # that the teacher scores
_MAJORITY, _FEW, _FEW_HELD_OUT, _CUT, _SHARE = 0.8, 5, 50, 0.1, 0.01
_BY_HEART, _NOISE = 0.15, 0.3


def look_at_classes(recipe: ClassifierRecipe, folder: RunFolder) -> Iterator[Finding]:
    """Data first, then the models."""
    context = ClassifierContext(recipe, folder)
    yield from _labels(context.data)
    yield from _overlap(context.data)
    yield from few_steps(min(len(context.data.train_labels), recipe.data.student_limit or 10**9), recipe)
    student = context.view(recipe.student)
    if isinstance(recipe.teacher, RankedLabels):
        yield note("teacher", "it is an order of classes, not a model, and was not checked", "nothing")
        return
    teacher = context.view(recipe.teacher, needs_head=recipe.teacher.training is None)
    for side, view, spec in (("teacher", teacher, recipe.teacher), ("student", student, recipe.student)):
        if context.data.kind == "text" and is_transformers(spec.model):
            yield from _cut(side, view, recipe.data.max_tokens)
    sizes = [sum(one.numel() for one in view.module.parameters()) for view in (teacher, student)]
    if sizes[1] > sizes[0]:
        text = f"the student has {sizes[1]:,} parameters, the teacher {sizes[0]:,}"
        yield warning("size", text, "check that teacher and student are not swapped")
    if recipe.teacher.training is not None:
        text = "the recipe trains it first, so it is not known yet whether it is better than the student"
        yield note("teacher", text, "the report has its accuracy; also train a student with ce")
        return
    yield from _teacher(context, teacher)


def _labels(data: ClassificationData) -> Iterator[Finding]:
    counts = torch.bincount(data.train_labels, minlength=data.classes)
    held = torch.bincount(data.heldout_labels, minlength=data.classes)
    most = int(counts.argmax())
    if (share := float(counts[most] / counts.sum())) > _MAJORITY:
        text = f"{share:.0%} of the training labels are {data.class_names[most]!r}"
        yield warning("balance", text, "do not rely on accuracy alone, and add examples of the other classes")
    for name, which, do in (
        (f"with fewer than {_FEW} training examples", counts < _FEW, "add examples, or merge the classes"),
        ("without a held-out example", held == 0, "hold out examples of every class"),
    ):
        if bool(which.any()):
            names = ", ".join(data.class_names[one] for one in which.nonzero().squeeze(-1).tolist()[:5])
            yield warning("few examples", f"{int(which.sum())} classes {name}: {names}", do)
    if len(data.heldout_labels) < _FEW_HELD_OUT:
        text = f"{len(data.heldout_labels)} held-out examples: intervals will be wide"
        yield note("held out", text, "hold out more, with data.heldout or data.heldout_fraction")


def _overlap(data: ClassificationData) -> Iterator[Finding]:
    """Examples on both sides, and equal inputs with different labels."""
    train = [_digest(one) for one in data.train_inputs]
    labels: dict[str, set[int]] = {}
    for name, label in zip(train, data.train_labels.tolist(), strict=True):
        labels.setdefault(name, set()).add(label)
    shared = sum(_digest(one) in labels for one in data.heldout_inputs)
    if shared:
        text = f"{shared} of {len(data.heldout_labels)} held-out examples are also in the training data"
        yield warning("overlap", text, "remove them from one part; otherwise accuracy rewards memorisation")
    if contrary := sum(len(each) > 1 for each in labels.values()):
        text = f"{contrary} inputs have more than one label"
        yield warning("contrary labels", text, "correct them, or keep the label that most people gave")
    repeated = len(train) - len(labels)
    if repeated > 0.05 * len(train):
        text = f"{repeated} of {len(train)} training examples occur more than once"
        yield warning("repeated examples", text, "keep one of each")


def _digest(value: Any) -> str:
    if isinstance(value, Tensor):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    return " ".join(str(value).lower().split())


def _cut(side: str, view: Classifier, limit: int) -> Iterator[Finding]:
    lengths: Sequence[int] = [len(one) for one in view.train_inputs]  # at the limit they were cut
    if (cut := sum(length >= limit for length in lengths)) > _CUT * len(lengths):
        text = f"{cut} of {len(lengths)} texts exceed the {side}'s limit of {limit} tokens and are truncated"
        yield warning("cut texts", text, "raise data.max_tokens")


def _teacher(context: ClassifierContext, teacher: Classifier) -> Iterator[Finding]:
    """A loaded teacher: better than guessing, on held-out examples as on those of training, in line with the labels."""
    data, accuracy = context.data, {}
    for part, inputs, labels in (
        ("training", teacher.train_inputs, data.train_labels),
        ("held-out", teacher.heldout_inputs, data.heldout_labels),
    ):
        spread = slice(None, None, -(-len(labels) // _EXAMPLES))  # over all of them: files are often sorted by class
        logits, _ = scored(context, teacher, inputs[spread], f"{part} examples")
        accuracy[part] = float((logits.argmax(-1) == labels[spread]).float().mean())
    guess = Counter(data.heldout_labels.tolist()).most_common(1)[0][1] / len(data.heldout_labels)
    held = accuracy["held-out"]
    if held <= guess:
        text = f"the teacher is right on {held:.0%} of the held-out examples, the most frequent label on {guess:.0%}"
        yield warning("teacher", text, "check the model and the order of its labels, or train it first")
    elif accuracy["training"] - held > _BY_HEART:
        text = (
            f"the teacher is right on {accuracy['training']:.0%} of the training examples, on {held:.0%} of the others"
        )
        yield warning(
            "teacher by heart", text, "it was trained on them; distil on other examples, or on augmented copies"
        )
    elif accuracy["training"] < 1 - _NOISE:
        text = f"the teacher disagrees with {1 - accuracy['training']:.0%} of the training labels"
        yield warning(
            "noise", text, "inspect some of them: either labels or teacher are wrong; methods without labels may help"
        )
