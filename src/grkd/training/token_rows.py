"""Rows of response tokens from a model and a batch, padded or packed: one row per token, item by item."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from grkd.data.language import HeadInputs, captured_hidden, response_logits
from grkd.data.packed import GROUP_NUMBERS, is_packed, packed_final_hidden, packed_hidden, packed_logits
from grkd.groups import wide
from grkd.kernels.response_log_probs import selected_log_probs
from grkd.teacher.signal import HiddenCache, TeacherHead, final_hidden
from grkd.training.rows import DRAW_SEED, row_seeds, seed_offset

OFFSETS = "token_offsets"  # key of what token_offsets gives


def token_labels(batch: dict[str, Any]) -> Int[Tensor, " tokens"]:
    """The response tokens, item by item."""
    if is_packed(batch):
        found: Tensor = batch["labels"]
        return found
    picked: Tensor = batch["response_ids"][batch["response_mask"]]
    return picked


def token_logits(model: nn.Module, batch: dict[str, Any], vocabulary: int) -> Float[Tensor, "tokens vocabulary"]:
    """The logits that predict each response token, through the model's own forward."""
    if is_packed(batch):
        return packed_logits(model, batch)[:, :vocabulary]
    return response_logits(model, batch)[batch["response_mask"]][:, :vocabulary]


def token_hidden(model: nn.Module, batch: dict[str, Any]) -> HeadInputs | None:
    """Hidden states [tokens, hidden] in front of the lm_head, that head, and its soft cap; None for a special head."""
    if is_packed(batch):
        return packed_hidden(model, batch)
    found = captured_hidden(model, batch)
    return None if found is None else (found[0][batch["response_mask"]], *found[1:])


def token_log_probs(
    model: nn.Module, batch: dict[str, Any], vocabulary: int, dtype: torch.dtype | None
) -> Float[Tensor, " tokens"]:
    """Log-probability of every response token, without logits if the model's head allows it."""
    labels = token_labels(batch)
    captured = token_hidden(model, batch)
    if captured is None:
        return log_probs_of_logits(token_logits(model, batch, vocabulary), labels)
    hidden, head, softcap = captured
    return selected_log_probs(
        hidden if dtype is None else hidden.to(dtype),
        head.weight,
        labels,
        bias=head.bias,
        softcap=softcap,
        vocabulary=vocabulary,
    )


def teacher_hidden(model: Any, batch: dict[str, Any]) -> Float[Tensor, "tokens hidden"]:
    """Hidden states of a teacher's body; its head is not called."""
    return packed_final_hidden(model, batch) if is_packed(batch) else final_hidden(model, batch)[batch["response_mask"]]


def both_heads(
    student: HeadInputs, teacher: tuple[Tensor, TeacherHead], *, dtype: torch.dtype | None
) -> dict[str, Any]:
    """Hidden states and heads of both sides as the fused head takes them; dtype: of the student's hidden states."""
    hidden, head, softcap = student
    of_teacher, other = teacher
    return {
        "student_hidden": hidden if dtype is None else hidden.to(dtype),
        "student_weight": head.weight,
        "student_bias": head.bias,
        "student_softcap": softcap,
        "teacher_hidden": of_teacher,
        "teacher_weight": other.weight,
        "teacher_bias": other.bias,
        "teacher_softcap": other.softcap,
    }


def stored_hidden(cache: HiddenCache, head: TeacherHead, item_ids: list[str]) -> "Tensor | Future[Tensor]":
    """Hidden states of the teacher from a cache; on their way, but in a worker process of a data loader."""
    if torch.utils.data.get_worker_info() is not None:
        return torch.cat([cache[item_id] for item_id in item_ids])
    return cache.rows_later(item_ids, pinned=head.weight.is_cuda)


def arrived(batch: dict[str, Any]) -> None:
    """Wait, in place, for hidden states that are on their way, and bring them to the batch's device."""
    found = batch.get("teacher_hidden")
    if found is not None and not isinstance(found, Tensor):
        batch["teacher_hidden"] = found.result().to(batch["input_ids"].device, non_blocking=True)


def token_seeds(batch: dict[str, Any]) -> Tensor | None:
    """A seed per response token, by its group's number and its place among the group's tokens."""
    if DRAW_SEED not in batch:
        return None
    if OFFSETS in batch:
        seeds: Tensor = batch[DRAW_SEED] + batch[OFFSETS]
        return seeds
    lengths = batch["response_mask"].sum(-1)  # of the items, which lie group by group
    group_of_item = batch["group_mask"].nonzero()[:, 0]
    group_of_token = group_of_item.repeat_interleave(lengths)
    tokens_of_group = lengths.new_zeros(len(batch["group_mask"])).index_add(0, group_of_item, lengths)
    first_token = tokens_of_group.cumsum(0) - tokens_of_group
    place = torch.arange(len(group_of_token), device=lengths.device) - first_token[group_of_token]
    numbers = batch.get(GROUP_NUMBERS)
    return row_seeds(batch, group_of_token if numbers is None else numbers[group_of_token], place)


def token_offsets(tokens_of_groups: Sequence[int]) -> Int[Tensor, " tokens"]:
    """What is added to a batch's seed for the seed of each response token: known before the batch is on its device."""
    return torch.cat([seed_offset(group, torch.arange(count)) for group, count in enumerate(tokens_of_groups)])


def item_means(token_log_probs: Float[Tensor, " tokens"], mask: Bool[Tensor, "items length"]) -> Tensor:
    """Mean of each item's tokens, [items]."""
    return spread(token_log_probs, mask).sum(-1) / mask.sum(-1)


def spread(values: Shaped[Tensor, " true"], mask: Bool[Tensor, "rows width"]) -> Shaped[Tensor, "rows width"]:
    """Values at the true places of a mask, row by row; zeros elsewhere.

    As masked_scatter, whose backward pass would wait for a GPU to count the places.
    """
    found = values.new_zeros(mask.numel())
    return found.index_copy(0, true_places(mask, len(values)), values).view(mask.shape)


def true_places(mask: Bool[Tensor, "rows width"], count: int) -> Int[Tensor, " true"]:
    """The places, in the flattened mask, of its `count` true entries; nonzero() would wait for a GPU to count them."""
    return (~mask).flatten().to(torch.uint8).argsort(stable=True)[:count]


def log_probs_of_logits(
    logits: Float[Tensor, "tokens vocabulary"], labels: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Log-probability of each token, in at least float32."""
    scores = wide(logits)
    return scores.gather(-1, labels.unsqueeze(-1)).squeeze(-1) - scores.logsumexp(-1)


def log_probs_of_head(inputs: dict[str, Any], labels: Tensor, vocabulary: int) -> Tensor:
    """Log-probability of each token from the student's side of the fused head's inputs."""
    return selected_log_probs(
        inputs["student_hidden"],
        inputs["student_weight"],
        labels,
        bias=inputs["student_bias"],
        softcap=inputs["student_softcap"],
        vocabulary=vocabulary,
    )
