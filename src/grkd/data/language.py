"""Batches of prompts and responses, and the logits that predict the responses' tokens.

Layout: prompts are padded on the left and responses on the right, so that all responses start in the same column:

    . . p p p | r r r .        attention_mask  0 0 1 1 1 1 1 1 0
    p p p p p | r . . .                        1 1 1 1 1 1 0 0 0

The logits of response tokens are then the last columns, and `logits_to_keep` gives them without the others.
Which tokens count is known from lengths, never from the padding's id: pad and end-of-sequence are often the same.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from grkd.errors import UserError


@dataclass(frozen=True)
class Item:
    """A prompt and its response as token ids; `index` is its place in the data set."""

    id: str
    prompt_ids: list[int]
    response_ids: list[int]
    index: int = 0


Matrix = tuple[tuple[float, ...], ...]
VotesOnPairs = tuple[Matrix, Matrix]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The responses to one prompt and what is known of each.

    teacher_scores: who orders the responses gave each this score (the teacher: its reward, in nats per token); NaN: it
    has no place in the order. votes: of several rankers on the pairs, as grkd.rankers.Votes: share q[i][j] and weight
    w[i][j]. sources: teacher, student or data.
    reference_log_probs: mean token log-probability of each under the student before training, for methods that need it.
    columns: the prompt (text or messages) and the record's other columns, for rankers of responses that are sampled in
    training. by_ranker: what each of these gave the responses. conversation: a number that turns of one conversation
    share; None: not known, and a conversation of its own.
    """

    id: str
    items: tuple[Item, ...]
    teacher_scores: tuple[float, ...]
    sources: tuple[str, ...]
    reference_log_probs: tuple[float, ...] | None = None
    votes: VotesOnPairs | None = None
    columns: Mapping[str, Any] | None = None
    by_ranker: Mapping[str, tuple[float, ...]] | None = None
    conversation: int | None = None

    @property
    def has_pair(self) -> bool:
        """Whether any two of its responses are put in order."""
        if self.votes is not None:
            return any(weight > 0 for row in self.votes[1] for weight in row)
        return len({score for score in self.teacher_scores if not math.isnan(score)}) > 1


def example_length(example: Any) -> int | None:
    """Tokens of the longest prompt and response of an Item or Group; None for anything else."""
    if isinstance(example, Item):
        return _length(example)
    return max(map(_length, example.items)) if isinstance(example, Group) else None


def _length(item: Item) -> int:
    return len(item.prompt_ids) + len(item.response_ids)


def collate(items: Sequence[Item], *, pad_token_id: int) -> dict[str, Tensor]:
    """A batch of B items, P the longest prompt and R the longest response.

    input_ids, attention_mask, position_ids: int64 [B, P + R]; positions count real tokens, so padding shifts none.
    response_ids: int64 [B, R]; response_mask: bool [B, R]; item_index: int64 [B].
    Raises ValueError for no items, an empty prompt or an empty response.
    """
    if not items:
        raise ValueError("a batch needs at least one item")
    for item in items:
        if not item.prompt_ids or not item.response_ids:
            raise ValueError(f"item {item.id!r} has an empty prompt or response")
    prompt_length = max(len(item.prompt_ids) for item in items)
    response_length = max(len(item.response_ids) for item in items)
    input_ids = torch.full((len(items), prompt_length + response_length), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, item in enumerate(items):
        start, end = prompt_length - len(item.prompt_ids), prompt_length + len(item.response_ids)
        input_ids[row, start:end] = torch.tensor(item.prompt_ids + item.response_ids)
        attention_mask[row, start:end] = 1
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": (attention_mask.cumsum(-1) - 1).clamp_min(0),
        "response_ids": input_ids[:, prompt_length:].clone(),
        "response_mask": attention_mask[:, prompt_length:].bool(),
        "item_index": torch.tensor([item.index for item in items]),
    }


def left_padded(
    prompts: Sequence[list[int]], *, pad_token_id: int, device: torch.device
) -> tuple[Int[Tensor, "batch longest"], Int[Tensor, "batch longest"]]:
    """Token ids and attention mask of prompts without responses."""
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, longest - len(prompt) :] = 1
    return input_ids.to(device), attention_mask.to(device)


def response_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch response vocabulary"]:
    """The logits that predict each response token, [B, R, vocabulary], through the model's own forward.

    Column r holds the prediction made *before* response token r: logits[:, r] goes with response_ids[:, r].
    Models whose forward knows no `logits_to_keep` compute all columns, which are then cut.
    """
    columns = batch["response_ids"].shape[-1]
    inputs = model_inputs(model, batch)
    if "logits_to_keep" in forward_parameters(model):
        inputs["logits_to_keep"] = columns + 1
    logits: Tensor = model(**inputs).logits
    return logits[:, -(columns + 1) : -1]


HeadInputs = tuple[Tensor, nn.Linear, float | None]


def captured_hidden(
    model: nn.Module, batch: Mapping[str, Tensor]
) -> tuple[Float[Tensor, "batch response hidden"], nn.Linear, float | None] | None:
    """Hidden states before the lm_head, that head, and its soft cap; the head itself is not computed.

    The model is called through its own forward (DDP, FSDP and peft hooks run); a hook on the head keeps what comes in
    and passes on nothing. None if logits are not softcap(head(hidden)) of a plain linear head.
    """
    found = before_head(model, lambda: response_logits(model, batch))
    if found is None:
        return None
    columns = batch["response_ids"].shape[-1]
    return found[0][:, -(columns + 1) : -1], *found[1:]


def before_head(model: nn.Module, call: Callable[[], object]) -> HeadInputs | None:
    """What the lm_head is given while `call` runs the model, that head, and its soft cap; None for a special head."""
    inner: Any = unwrapped(model)
    head, config = inner.get_output_embeddings(), inner.config.get_text_config(decoder=True)
    if not _is_plain_linear(head) or head_scale(config) != 1.0:
        return None
    kept: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        kept.append(arguments[0])
        return (arguments[0][:, :0],)

    handle = head.register_forward_pre_hook(keep)
    try:
        call()
    finally:
        handle.remove()
    return kept[0], head, getattr(config, "final_logit_softcapping", None)


def head_scale(config: Any) -> float:
    """What a model of this text config multiplies its head's product by before the soft cap."""
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier", "output_multiplier"):  # Cohere, Falcon-H1, Muse
        scale *= getattr(config, name, None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0  # Granite; HyperCLOVA X multiplies by it
    return scale * divisor if str(config.model_type).startswith("hyperclovax") else scale / divisor


def _is_plain_linear(head: Any) -> bool:
    """Whether a head is torch's linear layer itself, whose class FSDP2 extends where it shards the weight."""
    kind = type(head)
    return (kind.__bases__[-1] if kind.__name__ == "FSDPLinear" else kind) is nn.Linear


def model_inputs(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """What of the batch goes into the model's forward, with the cache of keys and values off."""
    names = ["input_ids", "attention_mask", "position_ids"]
    known = forward_parameters(model)
    if "position_ids" not in known and "kwargs" not in known:  # models that make positions of the attention mask
        names.remove("position_ids")
    return {**{name: batch[name] for name in names}, "use_cache": False}


def forward_parameters(model: nn.Module) -> frozenset[str]:
    """Names of the parameters of a model's own forward, looked up inside DDP, peft and torch.compile wrappers."""
    return frozenset(inspect.signature(unwrapped(model).forward).parameters)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP, peft and torch.compile wrappers."""
    for attribute in ("module", "_orig_mod"):
        if isinstance(inner := getattr(model, attribute, None), nn.Module):
            return unwrapped(inner)
    if callable(get_base := getattr(model, "get_base_model", None)):
        base: nn.Module = get_base()
        return unwrapped(base)
    return model


def vocabulary_size(tokenizer: Any) -> int:
    """The largest token id plus one, added tokens included; logits beyond it belong to no token."""
    return max(tokenizer.get_vocab().values()) + 1


def check_head_size(model: Any, tokenizer: Any, *, role: str = "model") -> int:
    """The tokenizer's vocabulary size; raises UserError if the model's head has fewer rows than that."""
    size, head = vocabulary_size(tokenizer), model.get_output_embeddings().weight.shape[0]
    if head < size:
        raise UserError(
            f"the {role}'s head has {head} rows but its tokenizer has ids up to {size - 1}; "
            "use the tokenizer that belongs to the model, or resize its embeddings"
        )
    return size


def cut_vocabulary(logits: Float[Tensor, "*rows head"], size: int) -> Float[Tensor, "*rows vocabulary"]:
    """The first `size` logits: those that mean a token. Raises ValueError if there are fewer."""
    if logits.shape[-1] < size:
        raise ValueError(f"{logits.shape[-1]} logits cannot be cut to a vocabulary of {size}")
    return logits[..., :size]


def within_context(
    prompt_ids: Sequence[int], *, max_prompt_tokens: int, max_new_tokens: int, context: int | None
) -> bool:
    """Whether the prompt is no longer than allowed and leaves room for the response in the model's context."""
    length = len(prompt_ids)
    return length <= max_prompt_tokens and (context is None or length + max_new_tokens <= context)
