"""A classifier's first stage: the data read and counted, and kept as tensors for students trained in lock-step."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from grkd.classify.context import OF_STUDENTS, ClassifierContext
from grkd.classify.engine import in_lockstep
from grkd.errors import UserError
from grkd.files import whole_file, write_json
from grkd.run.folder import identity
from grkd.run.training import check


def prepare(context: ClassifierContext) -> Path:
    """Read the data once and say what is in it; for lock-step training also keep the students' inputs as tensors.

    Leaves counts.json, classes.json, look_alikes.json, labels.safetensors; in lock-step tensors/tensors.safetensors.
    """
    recipe = context.recipe
    data = {key: value for key, value in identity(recipe.data).items() if key not in OF_STUDENTS}
    inputs = {"data": data, "seed": context.seed}
    _ = context.class_groups  # a mistake there is found before anything is trained

    def make(work: Path) -> None:
        found = context.data
        check(recipe.training, recipe.methods, found.classes)
        counts = {"examples_train": len(found.train_labels), "examples_heldout": len(found.heldout_labels)}
        write_json(work / "counts.json", {**counts, "classes": found.classes})
        write_json(work / "classes.json", found.class_names)
        numbers = {name: number for number, name in enumerate(found.class_names)}
        alike = {name: [numbers[one] for one in members] for name, members in found.class_groups.items()}
        write_json(work / "look_alikes.json", alike)
        labels = {"labels": found.train_labels, "heldout_labels": found.heldout_labels}
        if found.heldout_votes is not None:
            labels["votes"] = found.heldout_votes
        with whole_file(work / "labels.safetensors") as aside:
            save_file({name: value.contiguous() for name, value in labels.items()}, aside)

    made = context.run.stage("prepare", inputs, make, quick=True, main_only=True)
    if in_lockstep(recipe):
        seen = {**inputs, "student": recipe.student.model}
        context.run.stage("tensors", seen, lambda work: _keep_tensors(context, work))
    return made


def _keep_tensors(context: ClassifierContext, work: Path) -> None:
    recipe, data = context.recipe, context.data
    student = context.view(recipe.student, outside=data.outside_inputs)
    if not isinstance(student.train_inputs, Tensor) or not isinstance(student.heldout_inputs, Tensor):
        raise UserError(f"student: {recipe.student.model} reads no data that fit in memory; use a transformers model")
    if context.live and student.train_inputs.ndim != 4:
        raise UserError("lockstep.augment: only images can be cropped and flipped; remove it")
    if recipe.data.copies and data.kind != "text":
        raise UserError("data.copies: only texts have words that can be left out; remove it")
    if not context.run.ranks.is_main_process:
        return
    known = len(data.heldout_labels)
    kept = {"inputs": student.train_inputs, "heldout_inputs": student.heldout_inputs[:known]}
    if data.outside_inputs:
        kept["outside_inputs"] = student.heldout_inputs[known:]
    with whole_file(work / "tensors.safetensors") as aside:
        save_file({name: value.contiguous() for name, value in kept.items()}, aside)
