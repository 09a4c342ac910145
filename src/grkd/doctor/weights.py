"""The checks that need the models: sizes, precision, memory, and 32 prompts that the teacher answers or reads."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from grkd.data.language import Item, vocabulary_size
from grkd.doctor.finding import Finding, error, note, warning
from grkd.doctor.groups import look_at_groups
from grkd.doctor.sides import Encoded, Sides
from grkd.language.models import model_of
from grkd.models.cut import fresh, truncated
from grkd.planning.memory import free_memory, step_memory
from grkd.recipe import Model, ServedModel, weights_of
from grkd.run.device import device, dtype
from grkd.teacher.in_own_words import item_in_own_words
from grkd.teacher.local import LocalTeacher

PROMPTS = 32
_LONGEST = 256  # tokens of an answer that is read
_SECONDS = 20.0  # for what the teacher writes
_MARGIN = 0.002  # nats per character
_ROUNDED = 0.5  # share of the weights


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """Both models on the run's device; teacher: None if it is served."""

    teacher: Any
    student: Any
    where: torch.device

    @classmethod
    def of(cls, sides: Sides) -> "Loaded":
        """Load the teacher once, and make the student as the run would. Raises UserError as the run."""
        recipe = sides.recipe
        weights, spec, where = weights_of(recipe), recipe.student, device(recipe.device)
        needed = not (isinstance(recipe.teacher, ServedModel) and spec.model is not None)
        teacher = model_of(weights, dtype(weights.dtype, where)) if weights is not None and needed else None
        kept = torch.float32 if spec.dtype == "auto" else dtype(spec.dtype, where)
        if teacher is not None and spec.layers is not None:
            student = truncated(teacher, spec.layers).to(kept)
        elif teacher is not None and spec.config is not None:
            student = fresh(teacher.config, spec.config, seed=recipe.seeds[0]).to(kept)
        else:
            student = model_of(spec, kept)
        return cls(teacher=None if teacher is None else teacher.to(where), student=student.to(where), where=where)


def look_at_weights(sides: Sides, loaded: Loaded) -> Iterator[Finding]:
    """Sizes of the models, weights that are no numbers, the learning rate against their precision, and memory."""
    for side, model in (("teacher", loaded.teacher), ("student", loaded.student)):
        if model is not None and not all(bool(one.isfinite().all()) for one in model.parameters()):
            yield error("weights", f"the {side} has weights that are NaN or infinite", "use another copy of the model")
    if isinstance(sides.recipe.teacher, Model):
        yield from _compared(loaded)
    yield from _precision(sides, loaded)
    needed, free = step_memory(sides.recipe), free_memory(loaded.where)
    if needed is not None and needed.total > 0.9 * free:
        report = error if needed.total > free else warning
        text = f"a training step takes about {needed.total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        yield report("memory", text, "lower training.batch_size, use student.lora or gradient_checkpointing: auto")


def _compared(loaded: Loaded) -> Iterator[Finding]:
    """A student that is the teacher, or larger than it."""
    sizes = [sum(one.numel() for one in model.parameters()) for model in (loaded.teacher, loaded.student)]
    if sizes[1] > sizes[0]:
        text = f"the student has {sizes[1]:,} parameters, the teacher {sizes[0]:,}"
        yield warning("size", text, "check that teacher and student are not swapped")
    if sizes[0] != sizes[1]:
        return
    pairs = zip(loaded.teacher.state_dict().items(), loaded.student.state_dict().items(), strict=False)
    if all(name == other and torch.equal(one.float(), two.float()) for (name, one), (other, two) in pairs):
        text = "teacher and student have the same weights: so there is nothing to learn"
        yield error("same model", text, "name another student, or student.layers to cut one from the teacher")


def _precision(sides: Sides, loaded: Loaded) -> Iterator[Finding]:
    """Weights of 16 bits round an update of AdamW, about the learning rate per step, away."""
    recipe, bits = sides.recipe, {torch.bfloat16: 7, torch.float16: 10}
    kept = next(iter(loaded.student.parameters())).dtype
    if kept not in bits or recipe.student.lora is not None or recipe.training.float32_masters:
        return
    if kept == torch.float16:
        text = "the student is trained in float16, in which small gradients become 0"
        yield warning("precision", text, "student.dtype: auto (float32 weights), or bfloat16")
    rate, total, lost = recipe.training.learning_rate, 0, 0
    for weights in loaded.student.parameters():
        spacing = torch.exp2(weights.float().abs().clamp_min(1e-38).log2().floor() - bits[kept])
        lost, total = lost + int((spacing / 2 > rate).sum()), total + weights.numel()
    if lost > _ROUNDED * total:
        text = f"at learning rate {rate:g} an update is less than half a step of {lost / total:.0%} of the weights, "
        do = "training.float32_masters: true, student.dtype: auto, or a higher learning rate"
        yield warning("precision", f"{text}which {kept} rounds away", do)


def look_at_teacher(sides: Sides, loaded: Loaded) -> Iterator[Finding]:
    """Whether the teacher reads the data's answers better than the student; then groups, if the recipe compares."""
    readers = (_reader(sides, loaded.teacher, of_teacher=True), _reader(sides, loaded.student, of_teacher=False))
    known = [one for one in sides.encoded if one.answers]
    known = [*[one for one in known if one.split == "heldout"], *known][:PROMPTS]
    if known:
        teacher, student = (_per_character(sides, known, reader) for reader in readers)
        if math.isnan(teacher):
            yield error("teacher", "the teacher's log-probabilities are not numbers", "try teacher.dtype: float32")
        elif teacher <= student + _MARGIN:
            text = f"the teacher gives {len(known)} of your answers {teacher:.3f} nats per character, the student "
            do = "choose a teacher that knows your task, tune it first, or let it write the responses"
            yield warning("teacher", f"{text}{student:.3f}: it is no better", do)
    else:
        text = "the data have no answers, so nothing shows whether the teacher is better than the student"
        yield note("teacher", text, "evaluation.questions, or answers in the data, would show it")
    yield from look_at_groups(sides, loaded.teacher, readers[0], deadline=time.monotonic() + _SECONDS)


def _reader(sides: Sides, model: Any, *, of_teacher: bool) -> LocalTeacher:
    foreign = of_teacher and not sides.shared
    tokenizer = sides.teacher_tokenizer if foreign else sides.tokenizer
    size = sides.recipe.score.batch_size
    return LocalTeacher(
        model.eval(), tokenizer, vocabulary=vocabulary_size(tokenizer), batch_size=size, reads_text=foreign
    )


def _per_character(sides: Sides, known: Sequence[Encoded], reader: LocalTeacher) -> float:
    """Mean log-probability of the first answers, in nats per character, so that tokenizers do not matter."""
    items, characters = [], 0
    for one in known:
        ids = one.answers[0][:_LONGEST]
        text = str(sides.tokenizer.decode(ids, skip_special_tokens=True))
        characters += max(1, len(text))
        if not reader.reads_text:
            items.append(Item(id=one.example.id, prompt_ids=one.prompt_ids, response_ids=ids))
            continue
        items.append(
            item_in_own_words(
                reader.tokenizer,
                replace(one.example, completion=text, responses=None, scores=None),
                text,
                stop_ids=[],
                finished=False,
                system=sides.recipe.data.system,
                context=reader.context,
            )
        )
    means, _ = reader.scored(items)
    return sum(mean * len(item.response_ids) for mean, item in zip(means, items, strict=True)) / characters
