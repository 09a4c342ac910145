"""The teacher's signal for distillation by token: its last hidden states, stored once, and its head.

The hidden states of a response take a few kB per token, its logits 100-500 kB, and head(hidden) gives the exact logits
back in training, without the teacher's body in memory.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from grkd.data.language import head_scale, model_inputs, response_logits
from grkd.errors import UserError
from grkd.files import parse_json, whole_file
from grkd.groups import wide
from grkd.teacher.row_shards import RowShards, opened

_CURE = "delete it and run the score stage again"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TeacherHead(nn.Module):
    """What turns a model's last hidden states into logits: weight, bias, a scale and a soft cap; nothing is trained.

    logits = scale * (hidden W^T + bias), then cap * tanh(logits / cap) if there is a soft cap.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Float[Tensor, "vocabulary hidden"], *, bias: Tensor | None, scale: float, softcap: float | None
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self.scale, self.softcap = scale, softcap

    @classmethod
    def of(cls, model: PreTrainedModel, *, vocabulary: int | None = None) -> "TeacherHead":
        """The head of a model, sharing its memory; `vocabulary` keeps only the first logits (those that are tokens)."""
        head, config = model.get_output_embeddings(), model.config.get_text_config(decoder=True)
        bias = getattr(head, "bias", None)
        return cls(
            head.weight[:vocabulary],
            bias=None if bias is None else bias[:vocabulary],
            scale=head_scale(config),
            softcap=getattr(config, "final_logit_softcapping", None),  # Gemma 2
        )

    def forward(self, hidden: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows vocabulary"]:
        """Logits in the dtype of the head's weight."""
        logits = nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        settings = {"scale": json.dumps(self.scale), "softcap": json.dumps(self.softcap)}
        with whole_file(path) as aside:
            save_file(tensors, aside, metadata=settings)

    @classmethod
    def load(cls, path: Path, *, dtype: torch.dtype | None = None) -> "TeacherHead":
        """Read what `save` wrote, on the CPU, in `dtype` where given."""
        settings = {name: parse_json(value) for name, value in opened(path, _CURE).metadata().items()}
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
        return cls(tensors["weight"], bias=tensors.get("bias"), **settings)


def final_hidden(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch response hidden"]:
    """The hidden states from which the head predicts each response token, [B, R, hidden]; no logits are computed.

    batch: of grkd.data.language.collate. Column r belongs to response_ids[:, r].
    """
    columns = batch["response_ids"].shape[-1]
    hidden: Tensor = model.base_model(**model_inputs(model, batch)).last_hidden_state
    return hidden[:, -(columns + 1) : -1]


@torch.no_grad()
def check_head(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
    """Raises UserError if the model's head on final_hidden gives other logits than it does itself, up to rounding."""
    mask = batch["response_mask"]
    live = wide(response_logits(model, batch)[mask])
    rebuilt = wide(TeacherHead.of(model)(final_hidden(model, batch)[mask]))
    relative = 1e-4 if model.dtype in (torch.float32, torch.float64) else 3e-2
    difference = float((live - rebuilt).abs().max())
    if not difference <= relative * max(float(live.abs().max()), 1.0):
        raise UserError(
            f"the teacher's logits cannot be computed from its last hidden states (a {model.config.model_type} model; "
            f"they differ by {difference:.3g}); set score.signal: live"
        )


def mean_log_probs(
    logits: Float[Tensor, "batch response vocabulary"],
    response_ids: Int[Tensor, "batch response"],
    response_mask: Bool[Tensor, "batch response"],
) -> Float[Tensor, " batch"]:
    """Mean log-probability of each response's tokens, in nats per token, computed in float32; 0 for an empty response.

    (1/R) sum_r log softmax(logits_r)[y_r] over unmasked r.
    """
    scores = wide(logits).masked_fill(~response_mask.unsqueeze(-1), 0.0)  # before any exp, which could overflow there
    chosen = scores.gather(-1, response_ids.unsqueeze(-1)).squeeze(-1) - scores.logsumexp(-1)
    return torch.where(response_mask, chosen, 0.0).sum(-1) / response_mask.sum(-1).clamp_min(1)


class HiddenCache(RowShards):
    """Hidden states of responses by item id: RowShards of the tensor `hidden` [response, hidden].

    dtype: of what is written ("float32" or "bfloat16": half the space, exact for a teacher that runs in it).
    """

    def __init__(self, folder: Path, *, dtype: Literal["float32", "bfloat16"] = "float32") -> None:
        super().__init__(folder, name="hidden", dtype=_DTYPES[dtype], cure=_CURE)
        self._reader: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_reader": None}

    def rows_later(self, item_ids: Sequence[str], *, pinned: bool) -> "Future[Tensor]":
        """The items' hidden states one after the other, [tokens, hidden], read by a thread while other work goes on.

        pinned: in memory that a GPU copies from without waiting. Raises KeyError now for an item that is not there.
        """
        for item_id in item_ids:
            self._places[item_id]
        if self._reader is None:
            self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hidden states")
        return self._reader.submit(self._rows, item_ids, pinned)

    def _rows(self, item_ids: Sequence[str], pinned: bool) -> Tensor:
        rows = torch.cat([self[item_id] for item_id in item_ids])
        return rows.pin_memory() if pinned else rows
