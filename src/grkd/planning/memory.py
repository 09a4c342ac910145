"""What a step of a language model's training takes, and what is free."""

from copy import deepcopy
from typing import Any

import psutil
import torch

from grkd import objectives
from grkd.language.models import config_of
from grkd.recipe import LanguageRecipe, weights_of
from grkd.run.device import device, dtype
from grkd.training.memory import Memory, ModelSize, available, fewest_recomputed, training_memory


def free_memory(where: torch.device) -> float:
    """Bytes that a process could take on the device now."""
    if where.type == "cuda":
        return float(torch.cuda.mem_get_info(where)[0])
    return float(psutil.virtual_memory().available)


def sizes_of(recipe: LanguageRecipe) -> tuple[ModelSize | None, ModelSize | None]:
    """Sizes of teacher and student from their configs; None for one that is not at hand."""
    weights, spec = weights_of(recipe), recipe.student
    teacher = None if weights is None else config_of(weights)
    student = config_of(spec) if spec.model is not None else deepcopy(teacher)
    if student is not None and spec.layers is not None:
        student.get_text_config(decoder=True).num_hidden_layers = len(spec.layers)
        if isinstance(getattr(student, "layer_types", None), list):
            student.layer_types = [student.layer_types[layer] for layer in spec.layers]
    if student is not None and spec.config is not None:
        student = type(student).from_dict({**student.to_dict(), **spec.config, "layer_types": None})
    return _size(teacher), _size(student)


def step_memory(recipe: LanguageRecipe) -> Memory | None:
    """Memory of the largest step that the recipe allows, an upper bound; None if the configs are not at hand."""
    training, responses = recipe.training, recipe.responses
    longest = responses.max_new_tokens
    each = longest + min(recipe.data.max_prompt_tokens, 2 * longest)
    sequences = training.batch_size * max(1, responses.n)
    tokens, targets = sequences * each, sequences * longest
    if training.tokens_per_batch is not None and tokens > training.tokens_per_batch:
        tokens, targets = training.tokens_per_batch, round(targets * training.tokens_per_batch / tokens)
    return memory_of(recipe, tokens=tokens, response_tokens=targets)


def memory_of(recipe: LanguageRecipe, *, tokens: int, response_tokens: int) -> Memory | None:
    """Memory of a step with so many tokens in one forward pass; None if the configs are not at hand."""
    teacher, student = sizes_of(recipe)
    if student is None:
        return None
    if not _runs_in_training(recipe):
        teacher = None
    weights = weights_of(recipe)
    eighth = None if teacher is None or weights is None or weights.dtype != "float8" else float8_bytes(teacher)
    where, lora, own = device(recipe.device), recipe.student.lora, recipe.student.dtype
    kept = torch.float32 if own == "auto" else dtype(own, where)
    options: dict[str, Any] = {
        "teacher": teacher,
        "teacher_bytes": eighth,
        "tokens": tokens,
        "response_tokens": response_tokens,
        "masters": kept == torch.float32,
        "copies": recipe.training.float32_masters,
        "trained": None if lora is None else adapter_parameters(student, lora.r),
        "single": where.type != "cuda" and kept == torch.float32,
    }
    chosen = recipe.training.gradient_checkpointing
    again = student.layers if chosen is True else 0
    if chosen == "auto" and where.type == "cuda":  # as the training will choose
        again = fewest_recomputed(student, free=available(where), **options)
    return training_memory(student, recompute=again > 0, kept_layers=student.layers - again, **options)


def float8_bytes(size: ModelSize) -> float:
    """Of a decoder's weights with its linear layers in float8: two bytes more for each entry of the vocabulary."""
    linear = size.layers * size.hidden * (2 * size.queries + 2 * size.keys + 3 * size.intermediate)
    return float(linear + 2 * (size.parameters - linear))


def adapter_parameters(size: ModelSize, r: int) -> int:
    """Parameters of adapters of rank r on all linear layers of a decoder."""
    widths = [
        size.hidden + size.queries,
        2 * (size.hidden + size.keys),
        size.queries + size.hidden,
        3 * (size.hidden + size.intermediate),
    ]
    return size.layers * r * sum(widths)


def _runs_in_training(recipe: LanguageRecipe) -> bool:
    """Whether the teacher is called in every step of any method."""
    methods = [objectives.load(one.name, **one.options) for one in recipe.methods]
    live = recipe.score.signal == "live" and any("row" in one.levels and one.needs_teacher for one in methods)
    sampled = recipe.responses.when == "in_training"
    return live or any(one.on_policy and one.needs_teacher for one in methods) or sampled


def _size(config: Any) -> ModelSize | None:
    if config is None:
        return None
    try:
        return ModelSize.of(config)
    except (AttributeError, ValueError):  # no decoder with these names in its config
        return None
