"""How much memory a training of a language model takes: a model of it by parts, and what follows for recomputing."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from grkd.console import console
from grkd.data.language import Group, Item, unwrapped
from grkd.ranks import gathered
from grkd.training.compiled_layers import decoder_layers
from grkd.training.groups_of_responses import group_of

_HEAD_CHUNK = 1.3e9  # bytes of float32 logits that the fused head holds at a time on a GPU
_HEAD_CHUNK_CPU = 64 * 2.0**20
_RESERVE = 0.9  # of what is free: the allocator's gaps, the context, libraries


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Sizes of a decoder. queries, keys: width of all heads together. norms: per layer. parameters: all."""

    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    norms: int
    vocabulary: int
    parameters: int

    @classmethod
    def of(cls, config: Any) -> "ModelSize":
        """From a config of transformers; the parameters are counted on a model without weights."""
        config = config.get_text_config(decoder=True)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config)
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        norms = sum("Norm" in type(module).__name__ for module in model.modules())
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            queries=heads * width,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * width,
            norms=max(2, (norms - 1) // config.num_hidden_layers),  # one is behind the layers
            vocabulary=config.vocab_size,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
        )


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes at the peak of a step, by what holds them."""

    weights: float
    gradients: float
    optimizer: float
    teacher: float
    activations: float
    head: float

    @property
    def total(self) -> float:
        """All of it. Gradients grow while activations go, so a step may stay below."""
        return float(sum(getattr(self, each.name) for each in fields(self)))

    @property
    def peak(self) -> float:
        """The most at one time: activations go as gradients come, so it is all of the ones or all of the others."""
        return self.weights + self.optimizer + self.teacher + max(self.gradients, self.activations + self.head)


def training_memory(
    student: ModelSize,
    *,
    teacher: ModelSize | None = None,
    tokens: int,
    response_tokens: int,
    recompute: bool,
    kept_layers: int = 0,
    masters: bool = True,
    copies: bool = False,
    compiled: bool = False,
    trained: int | None = None,
    teacher_bytes: float | None = None,
    single: bool = False,
) -> Memory:
    """Memory of a step with AdamW, attention without score matrices, and the head from hidden states.

    tokens: of one forward pass, padding counted; response_tokens: those with a loss. masters: float32 weights under
    bfloat16 autocast, otherwise bfloat16 weights. copies: of bfloat16 weights, in float32 (training.float32_masters).
    compiled: layers by torch.compile, which keeps less. trained: parameters that are trained (LoRA); None: all.
    teacher: one that runs in every step. teacher_bytes: of its weights; None: in bfloat16.
    single: float32 everywhere and a head of smaller chunks, as on a CPU.
    Kept for the backward pass per layer and token, in bytes: the residual stream and the norms' outputs, queries, keys,
    values and attention's output, and of the feed-forward part gate and up (and, not compiled, their activation and
    product). With recomputing: the layer's input, and one layer as a whole; of the last kept_layers all of it.
    """
    trained = student.parameters if trained is None else trained
    width = 4 if masters else 2
    inner = 4 if single else 2
    per_layer = _kept(student, width, inner, compiled)
    again = student.layers - kept_layers if recompute else 0
    kept = width * student.hidden * again + per_layer * (min(student.layers, student.layers - again + 1))
    logits = min(_HEAD_CHUNK_CPU if single else _HEAD_CHUNK, 4.0 * response_tokens * student.vocabulary)
    head = 2.5 * logits + 4.0 * student.vocabulary * student.hidden + 8.0 * response_tokens * student.hidden
    working = 0.0 if teacher is None else tokens * inner * (2.0 * teacher.hidden + 4.0 * teacher.intermediate)
    return Memory(
        weights=float(width * student.parameters),
        gradients=float(width * trained),
        optimizer=float((12 if copies else 2 * width) * trained),
        teacher=float((inner * teacher.parameters if teacher else 0) if teacher_bytes is None else teacher_bytes),
        activations=max(float(tokens * kept), working),
        head=head,
    )


def _kept(size: ModelSize, width: int, inner: int, compiled: bool) -> int:
    """Bytes that one layer keeps of a token for its backward pass. width, inner: of a number in weights, products."""
    attention = inner * (2 * size.queries + 2 * size.keys)
    if compiled:
        return 2 * width * size.hidden + size.norms * inner * size.hidden + attention + 2 * inner * size.intermediate
    cast = inner if width > inner else 0  # the norm's output, once more in the precision of the products
    normed = size.norms * (4 + width + cast) * size.hidden
    return 2 * width * size.hidden + normed + attention + 4 * inner * size.intermediate


def largest_batch(dataset: Sequence[Group | Item], examples: int, budget: int | None) -> tuple[int, int]:
    """Tokens and response tokens of the largest forward pass that batches of `examples` can make.

    budget: tokens_per_batch of packed rows; None: batches are padded to their longest prompt and response.
    """
    groups = sorted((group_of(example).items for example in dataset), key=_size, reverse=True)[:examples]
    items = [item for group in groups for item in group]
    responses = [len(item.response_ids) for item in items]
    if budget is not None:
        own = sum(map(_size, groups))
        share = min(1.0, max(budget, _size(groups[0])) / own)
        return int(own * share), int(sum(responses) * share)
    return (max(len(item.prompt_ids) for item in items) + max(responses)) * len(items), sum(responses)


def _size(items: Sequence[Item]) -> int:
    return sum(len(item.prompt_ids) + len(item.response_ids) for item in items)


def fits(memory: Memory, *, free: float) -> bool:
    """Whether a training fits into `free` bytes of a device, with a reserve."""
    return memory.total <= _RESERVE * free


def recomputed_layers(
    student: Any,
    teacher: Any,
    dataset: Sequence[Group | Item],
    *,
    examples: int,
    budget: int | None,
    masters: bool,
    device: torch.device,
    copies: bool = False,
) -> int:
    """How many layers, from the first on, are computed twice: as few as must be for a step to fit on the device.

    The last layers keep theirs for the shortest time. 0 on a CPU, and if a model's sizes are not known. Otherwise said
    in one line.
    """
    if device.type != "cuda":
        return 0
    try:
        sizes = [None if model is None else ModelSize.of(unwrapped(model).config) for model in (student, teacher)]
    except (AttributeError, ValueError):  # no decoder with these names in its config
        return 0
    assert sizes[0] is not None
    tokens, response_tokens = largest_batch(dataset, examples, budget)
    options: dict[str, Any] = {
        "teacher": sizes[1],
        "tokens": tokens,
        "response_tokens": response_tokens,
        "masters": masters,
        "copies": copies,
        "teacher_bytes": None
        if teacher is None
        else float(sum(p.numel() * p.element_size() for p in teacher.parameters())),
        "trained": sum(each.numel() for each in student.parameters() if each.requires_grad),
    }
    free = available(device)
    # One decision of all processes: their GPUs may have different amounts free.
    again = max(gathered([fewest_recomputed(sizes[0], free=free, **options)], "memory of a step"))
    if again:
        needed = training_memory(sizes[0], recompute=False, **options).total
        console.print(
            f"{again} of {sizes[0].layers} layers are recomputed (gradient_checkpointing); otherwise a step would take "
            f"{needed / 2**30:.0f} GiB of {free / 2**30:.0f}",
            soft_wrap=True,
        )
    return again


def available(device: torch.device) -> float:
    """Bytes of a GPU that a training can take: what is free, and what this process holds, which it counts as needed."""
    return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))


def fewest_recomputed(student: ModelSize, *, free: float, **options: Any) -> int:
    """Layers that must be computed twice for a step to fit into `free` bytes; all if even that does not help.

    options: of training_memory.
    """
    for again in range(student.layers):
        kept = student.layers - again
        if fits(training_memory(student, recompute=again > 0, kept_layers=kept, **options), free=free):
            return again
    return student.layers


class KeptLayers(TrainerCallback):
    """Has a training that computes layers twice do so for the first `recomputed` of them alone."""

    def __init__(self, recomputed: int) -> None:
        self.recomputed = recomputed

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        for layer in decoder_layers(model)[self.recomputed :]:
            if getattr(layer, "gradient_checkpointing", False):
                layer.gradient_checkpointing = False  # type: ignore[assignment]
