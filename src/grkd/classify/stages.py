"""The stages of a classifier's distillation: teach, score, train, evaluate, each from files to files."""

import difflib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset
from transformers import PreTrainedModel

from grkd import objectives
from grkd.classify.data import Classifier, load_data, make_classifier
from grkd.data.classification import ClassificationData
from grkd.data.classification_batches import ClassificationDataset, Collate
from grkd.data.splits import stratified_sample
from grkd.errors import UserError
from grkd.files import whole_file, write_json
from grkd.metrics.rank import calibration, group_accuracy, rank_fidelity, reverse_kl
from grkd.metrics.rank_measures import calibration_interval
from grkd.models.networks import BUILT_IN, predict
from grkd.recipe import ClassifierModel, ClassifierRecipe, Method, Training, to_plain
from grkd.run.device import device
from grkd.run.folder import RunFolder, identity
from grkd.run.training import check, drop_checkpoints, train
from grkd.statistics import bootstrap_interval
from grkd.training import ClassRows

# What of the data section is about students alone.
OF_STUDENTS = ("student_limit", "copies", "word_dropout")

# Logits measured at a time; several float64 tensors of as many live together.
_ENTRIES = 1 << 22


class ClassifierRun:
    """What the stages share: the recipe, its folder, its data (read once a process)."""

    def __init__(self, recipe: ClassifierRecipe, run: RunFolder) -> None:
        self.recipe, self.run = recipe, run
        self.device = device(recipe.device)

    @cached_property
    def data(self) -> ClassificationData:
        return load_data(self.recipe.data, seed=self.recipe.seeds[0])

    @cached_property
    def class_groups(self) -> dict[str, list[int]]:
        """The classes of evaluation.groups by number. Raises UserError for a group of fewer than two, or an unknown."""
        groups = self.recipe.evaluation.groups
        return {name: _class_numbers(name, classes, self.data.class_names) for name, classes in groups.items()}

    def classifier(self, spec: ClassifierModel, *, seed: int, needs_head: bool = False) -> Classifier:
        """A teacher or student on this run's data, before training."""
        return make_classifier(spec, self.data, self.recipe, seed=seed, needs_head=needs_head)

    def dataset(self, classifier: Classifier, teacher_scores: Tensor | None = None) -> ClassificationDataset:
        """The training part as this classifier takes it."""
        return ClassificationDataset(classifier.train_inputs, self.data.train_labels, teacher_scores=teacher_scores)


def prepare(shared: ClassifierRun) -> Path:
    """Reads the data once and says what is in it."""
    recipe = shared.recipe
    data = {key: value for key, value in identity(recipe.data).items() if key not in OF_STUDENTS}
    inputs = {"data": data, "seed": recipe.seeds[0]}
    _ = shared.class_groups  # a mistake there is found before anything is trained

    def make(work: Path) -> None:
        if shared.run.ranks.is_main_process:
            found = shared.data
            check(recipe.training, recipe.methods, found.classes)
            counts = {"examples_train": len(found.train_labels), "examples_heldout": len(found.heldout_labels)}
            write_json(work / "counts.json", {**counts, "classes": found.classes})
            write_json(work / "classes.json", found.class_names)

    return shared.run.stage("prepare", inputs, make, quick=True)


def check_teacher(recipe: ClassifierRecipe) -> None:
    """Raises UserError for a teacher that has learnt nothing: a built-in network, not trained and without weights."""
    spec = recipe.teacher
    if spec.model in BUILT_IN and spec.training is None and spec.weights is None:
        raise UserError(
            f"teacher: {spec.model} has learnt nothing yet; add training: {{epochs: 10}} or weights: FILE.safetensors"
        )


def teach(shared: ClassifierRun) -> Path:
    """The teacher: trained on the labels where the recipe says how, else loaded; checked against the data."""
    recipe, spec = shared.recipe, shared.recipe.teacher
    inputs = {
        "teacher": identity(spec),
        "prepare": shared.run.key("prepare"),
        "seed": recipe.seeds[0],
    }

    def make(work: Path) -> None:
        teacher = shared.classifier(spec, seed=recipe.seeds[0], needs_head=spec.training is None)
        if spec.training is not None:
            objective = objectives.load("ce")
            _train(shared, teacher, shared.dataset(teacher), work, objective, spec.training, recipe.seeds[0], "teach")
        if shared.run.ranks.is_main_process:
            _save(teacher, work)
            drop_checkpoints(work)

    return shared.run.stage("teach", inputs, make)


def score(shared: ClassifierRun) -> Path:
    """The teacher's logits of every example, once."""

    def make(work: Path) -> None:
        if not shared.run.ranks.is_main_process:
            return
        teacher = shared.classifier(shared.recipe.teacher, seed=shared.recipe.seeds[0])
        _load(teacher, shared.run.path / "teach")
        found = {split: _predict(shared, teacher, split) for split in ("train", "heldout")}
        for split, logits in found.items():
            if not bool(logits.isfinite().all()):
                raise UserError(f"teacher: some of its scores of the {split} examples are not finite")
        with whole_file(work / "scores.safetensors") as aside:
            save_file(found, aside)

    return shared.run.stage("score", {"teach": shared.run.key("teach")}, make)


def train_student(shared: ClassifierRun, method: Method, seed: int) -> Path:
    """One student: method and seed."""
    recipe, name = shared.recipe, f"{method.label}-seed{seed}"
    inputs = {
        "method": to_plain(method),
        "seed": seed,
        "student": identity(recipe.student),
        "training": to_plain(recipe.training),
        "student_limit": recipe.data.student_limit,
        "score": shared.run.key("score"),
    }

    def make(work: Path) -> None:
        student = shared.classifier(recipe.student, seed=seed)
        objective = objectives.load(method.name, **method.options)
        dataset: Dataset[dict[str, Any]] = shared.dataset(student, _scores(shared)["train"])
        if recipe.data.student_limit is not None:
            labels = shared.data.train_labels
            kept = stratified_sample(labels, recipe.data.student_limit, seed=seed)
            dataset = Subset(dataset, kept.tolist())
        _train(shared, student, dataset, work, objective, recipe.training, seed, f"train {name}")
        if shared.run.ranks.is_main_process:
            _save(student, work)
            drop_checkpoints(work)

    return shared.run.stage(f"train/{name}", inputs, make)


def evaluate(shared: ClassifierRun, name: str, trained: str | None, *, seed: int) -> Path:
    """Held-out accuracy, likelihood and agreement with the teacher, of a student (None: of the teacher itself)."""
    source = f"train/{trained}" if trained else "teach"
    inputs = {"evaluation": to_plain(shared.recipe.evaluation), "model": shared.run.key(source)}

    def make(work: Path) -> None:
        if not shared.run.ranks.is_main_process:
            return
        spec = shared.recipe.student if trained else shared.recipe.teacher
        model = shared.classifier(spec, seed=seed)
        _load(model, shared.run.path / source)
        logits, teacher = _predict(shared, model, "heldout"), _scores(shared)["heldout"]
        labels, groups = shared.data.heldout_labels, shared.class_groups
        write_json(work / "metrics.json", _metrics(logits, teacher if trained else None, labels, class_groups=groups))

    return shared.run.stage(f"evaluate/{name}", inputs, make)


def _metrics(
    logits: Float[Tensor, "examples classes"],
    teacher: Float[Tensor, "examples classes"] | None,
    labels: Int[Tensor, " examples"],
    *,
    class_groups: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """metric -> {value, low, high}: means over held-out examples, intervals by resampling them.

    ece: the expected calibration error (no mean of the examples); brier in [0, 2]. Against the teacher's logits, where
    there are any: rank.rank_fidelity over all classes and reverse_kl_nats.
    Of the examples whose label is in a group: group_accuracy/<name>, the highest of all classes is the label;
    within_group_accuracy/<name>, the highest of the group's classes is. A group without held-out examples: None.
    """
    parts: dict[str, list[Tensor]] = {}
    for rows in torch.arange(len(labels)).split(max(1, _ENTRIES // logits.shape[-1])):
        for name, values in _columns(logits[rows], None if teacher is None else teacher[rows], labels[rows]).items():
            parts.setdefault(name, []).append(values.double())
        for name, measures in group_accuracy(logits[rows], labels[rows], class_groups=class_groups or {}).items():
            parts.setdefault(f"group_accuracy/{name}", []).append(measures["accuracy"])
            parts.setdefault(f"within_group_accuracy/{name}", []).append(measures["within_group_accuracy"])
    columns = {name: torch.cat(values).numpy() for name, values in parts.items()}
    error = calibration_interval(columns.pop("confidence"), columns["accuracy"], np.arange(len(labels)), seed=0)
    intervals = {name: bootstrap_interval(values) for name, values in columns.items()} | {"ece": error}
    return {name: interval.as_json() for name, interval in intervals.items()}


def _columns(
    logits: Float[Tensor, "examples classes"],
    teacher: Float[Tensor, "examples classes"] | None,
    labels: Int[Tensor, " examples"],
) -> dict[str, Tensor]:
    """What is measured of each example, [examples] each, and its confidence (for the calibration error)."""
    found = calibration(logits.double(), labels)
    columns = {"accuracy": found["correct"], **{name: found[name] for name in ("nll_nats", "brier", "confidence")}}
    if teacher is None:
        return columns
    against = {**rank_fidelity(logits, teacher, top_k=None), "reverse_kl_nats": reverse_kl(logits, teacher)}
    return columns | against


def _class_numbers(name: str, classes: Sequence[str], class_names: Sequence[str]) -> list[int]:
    for one in classes:
        if one not in class_names:
            near = difflib.get_close_matches(one, class_names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(class_names[:5])}, ..."
            raise UserError(f"evaluation.groups.{name}: no class {one!r} in the data; {hint}")
    if len(set(classes)) < 2:
        raise UserError(f"evaluation.groups.{name}: expected two or more different classes, got {list(classes)}")
    return [list(class_names).index(one) for one in classes]


def _train(
    shared: ClassifierRun,
    classifier: Classifier,
    dataset: Dataset[dict[str, Any]],
    work: Path,
    objective: objectives.Objective,
    training: Training,
    seed: int,
    description: str,
) -> None:
    train(
        classifier.module,
        dataset,
        objective=objective,
        rows=ClassRows(Collate(prepare=classifier.prepare)),
        training=training,
        folder=work,
        seed=seed,
        where=shared.device,
        bf16=False,
        description=description,
    )


def _predict(shared: ClassifierRun, classifier: Classifier, split: str) -> Tensor:
    inputs = classifier.train_inputs if split == "train" else classifier.heldout_inputs
    module = classifier.module.to(shared.device)
    size = shared.recipe.evaluation.batch_size
    return predict(module, inputs, classifier.prepare, batch_size=size, device=shared.device)


def _scores(shared: ClassifierRun) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(shared.run.path / "score" / "scores.safetensors")
    return found


def _save(classifier: Classifier, work: Path) -> None:
    """model/: a transformers folder, or model.safetensors of any other module."""
    module: nn.Module = classifier.module
    folder = work / "model"
    folder.mkdir(exist_ok=True)
    if isinstance(module, PreTrainedModel):
        module.save_pretrained(folder)
        classifier.processor.save_pretrained(folder)
    else:
        save_model(module, str(folder / "model.safetensors"))


def _load(classifier: Classifier, stage: Path) -> None:
    load_model(classifier.module, stage / "model" / "model.safetensors")
