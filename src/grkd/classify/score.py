"""A classifier's third stage: the teacher's logits and features of every example, computed once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from grkd.classify.context import ClassifierContext
from grkd.classify.data import Classifier
from grkd.classify.ranked_labels import write_ranked_scores
from grkd.classify.student import load_weights_of
from grkd.data.classification_batches import moved
from grkd.data.text_copies import with_words_left_out
from grkd.errors import UserError
from grkd.files import whole_file, write_json
from grkd.models.networks import scores
from grkd.recipe import RankedLabels
from grkd.run.cost import measured, pace_of
from grkd.training.lockstep.batches import as_float
from grkd.training.lockstep.head import with_wide_head


def score(context: ClassifierContext) -> None:
    """Leave score/scores.safetensors beside the teacher: logits "train" and "heldout", and "outside" of inputs of no
    class; "train_features" if the network has a last linear layer. pace.json: how fast the held-out ones were scored.
    """
    inputs = {"teach": context.teacher_run.key("teach"), "device": context.device.type}
    context.teacher_run.stage("score", inputs, lambda work: _make(context, work), main_only=True)


def score_copies(context: ClassifierContext) -> None:
    """Leave copies/copies.safetensors: the copies of the texts as the student takes them, with the teacher's scores."""
    data, run = context.recipe.data, context.run
    if not data.copies:
        return
    drawn = [data.copies, data.word_dropout, context.seed]
    inputs = {"drawn": drawn, "tensors": run.key("tensors"), "score": context.teacher_run.key("score")}
    run.stage("copies", inputs, lambda work: _make_copies(context, work), main_only=True)


def teacher_outputs(context: ClassifierContext) -> dict[str, Tensor]:
    """What `score` left, on the CPU."""
    found: dict[str, Tensor] = load_file(context.teacher_run.path / "score" / "scores.safetensors")
    return found


def trained_teacher(context: ClassifierContext, *, outside: Sequence[Any] = ()) -> Classifier:
    """As it was trained, with the data as it takes them; `outside` inputs stand behind the held-out ones."""
    teacher = context.view(context.recipe.teacher, outside=outside)
    load_weights_of(teacher.module, context.teacher_run.path / "teach" / "model")
    return teacher


def _make(context: ClassifierContext, work: Path) -> None:
    if isinstance(context.recipe.teacher, RankedLabels):
        write_ranked_scores(context, work)
        return
    outside = context.data.outside_inputs
    teacher = trained_teacher(context, outside=outside)
    train, features = scored(context, teacher, teacher.train_inputs, "train examples")
    (heldout, _), seconds, peak = measured(
        lambda: scored(context, teacher, teacher.heldout_inputs, "heldout examples"), context.device
    )
    found = {"train": train, "heldout": heldout}
    if features is not None:
        found["train_features"] = features
    if outside:
        known = len(context.data.heldout_labels)
        found["outside"], found["heldout"] = heldout[known:].clone(), heldout[:known].clone()
    with whole_file(work / "scores.safetensors") as aside:
        save_file(found, aside)
    size = context.recipe.evaluation.batch_size
    write_json(work / "pace.json", pace_of(len(heldout), seconds, peak, batch_size=size))


def _make_copies(context: ClassifierContext, work: Path) -> None:
    data, known = context.recipe.data, len(context.data.heldout_labels)
    texts = [str(text) for text in context.data.train_inputs]
    copies = with_words_left_out(texts, copies=data.copies, dropout=data.word_dropout, seed=context.seed)
    inputs = context.view(context.recipe.student, outside=copies).heldout_inputs[known:]
    assert isinstance(inputs, Tensor)  # else the tensors stage had refused it
    teacher = trained_teacher(context, outside=copies)
    logits, features = scored(context, teacher, teacher.heldout_inputs[known:], "copies")
    found = {"inputs": inputs, "train": logits} | ({} if features is None else {"train_features": features})
    with whole_file(work / "copies.safetensors") as aside:
        save_file({name: value.contiguous() for name, value in found.items()}, aside)


@torch.no_grad()
def scored(
    context: ClassifierContext, teacher: Classifier, inputs: Tensor | Sequence[Any], what: str
) -> tuple[Tensor, Tensor | None]:
    """Logits, all finite, and the inputs of the last linear layer (None without one), float32 on the CPU."""
    module, head = with_wide_head(teacher.module.to(context.device).eval())
    size, logits, features = context.recipe.evaluation.batch_size, [], []
    for start in range(0, len(inputs), size):
        part = inputs[start : start + size]
        batch = as_float(part) if isinstance(part, Tensor) else teacher.prepare(part)
        with torch.autocast(context.device.type, dtype=torch.bfloat16, enabled=context.bf16):
            logits.append(scores(module, moved(batch, context.device)).float().cpu())
        if head is not None and head.read is not None:
            features.append(head.read.float().cpu())
    found = torch.cat(logits)
    if not bool(found.isfinite().all()):
        raise UserError(f"teacher: some of its scores of the {what} are not finite")
    return found, torch.cat(features) if features else None
