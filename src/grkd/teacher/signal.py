"""The teacher's signal for distillation by token: its last hidden states, stored once, and its head.

The hidden states of a response take a few kB per token, its logits 100-500 kB, and head(hidden) gives the exact logits
back in training, without the teacher's body in memory.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from grkd.data.language import model_inputs, response_logits
from grkd.errors import UserError
from grkd.files import parse_json, whole_file
from grkd.groups import wide

_OPEN_FILES = 64  # far below what a process may hold open
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TeacherHead(nn.Module):
    """What turns a model's last hidden states into logits: weight, bias, a scale and a soft cap; nothing is trained.

    logits = scale * (hidden W^T + bias), then cap * tanh(logits / cap) where there is a soft cap.
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
        scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
        scale /= getattr(config, "logits_scaling", None) or 1.0  # Granite
        bias = getattr(head, "bias", None)
        return cls(
            head.weight[:vocabulary],
            bias=None if bias is None else bias[:vocabulary],
            scale=scale,
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
        settings = {name: parse_json(value) for name, value in _opened(path).metadata().items()}
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
        return cls(tensors["weight"], bias=tensors.get("bias"), **settings)


def final_hidden(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Float[Tensor, "batch response hidden"]:
    """The hidden states from which the head predicts each response token, [B, R, hidden]; no logits are computed.

    batch: of grkd.data.language.collate. Column r belongs to response_ids[:, r].
    """
    columns = batch["response_ids"].shape[-1]
    hidden: Tensor = model.base_model(**model_inputs(model, batch)).last_hidden_state
    return hidden[:, -(columns + 1) : -1]


def head_logits(model: PreTrainedModel, hidden: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows vocabulary"]:
    """The model's logits from its last hidden states: its head, with the scale and soft cap of its config."""
    return TeacherHead.of(model)(hidden)


@torch.no_grad()
def check_head(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
    """Raises UserError if head_logits(final_hidden) are not the model's own logits on this batch, up to rounding."""
    mask = batch["response_mask"]
    live = wide(response_logits(model, batch)[mask])
    rebuilt = wide(head_logits(model, final_hidden(model, batch))[mask])
    relative = 1e-4 if model.dtype in (torch.float32, torch.float64) else 3e-2
    difference = float((live - rebuilt).abs().max())
    if not difference <= relative * max(float(live.abs().max()), 1.0):
        raise UserError(
            f"the teacher's logits cannot be had from its last hidden states (a {model.config.model_type} model; they "
            f"differ by {difference:.3g}); set score.signal: live"
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


class HiddenCache:
    """Hidden states of responses by item id, in safetensors shards in a folder; a shard is whole or absent.

    A shard holds one tensor, the rows of its items one after the other, and their ids and lengths. Opening the folder
    reads the ids alone; `cache[item_id]` reads that item's rows from the memory-mapped file. After a kill, open the
    folder again and go on with the items that are not in it.
    dtype: of what is written ("float32" or "bfloat16": half the space, exact for a teacher that runs in it).
    """

    def __init__(self, folder: Path, *, dtype: Literal["float32", "bfloat16"] = "float32") -> None:
        self.folder, self.dtype = folder, _DTYPES[dtype]
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._open: dict[Path, Any] = {}
        for path in sorted(folder.glob("hidden-*.safetensors")):
            self._take(path)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._places

    def __getitem__(self, item_id: str) -> Float[Tensor, "response hidden"]:
        """The item's hidden states, as they were stored; raises KeyError for an item that is not there."""
        path, start, end = self._places[item_id]
        if path not in self._open:
            while len(self._open) >= _OPEN_FILES:
                self._open.pop(next(iter(self._open)))
            self._open[path] = _opened(path)
        rows: Tensor = self._open[path].get_slice("hidden")[start:end]
        return rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # each worker process opens the files itself

    def write_shard(self, items: Mapping[str, Float[Tensor, "_ hidden"]], *, number: int | None = None) -> Path:
        """Write one more shard: item id -> hidden states [R_i, hidden], R_i at least 1.

        number: of its file, for several processes that write into one folder; None takes the next one that is free.
        Raises ValueError for no items, ids that are in the cache already, or states of another form.
        """
        known = [item_id for item_id in items if item_id in self]
        if known or not items:
            raise ValueError(f"in the cache already: {known}" if known else "a shard needs at least one item")
        if any(rows.dim() != 2 or not len(rows) for rows in items.values()):
            raise ValueError("hidden states must be [response, hidden] with at least one row")
        rows = torch.cat([rows.detach().to("cpu", self.dtype) for rows in items.values()])
        described = {"ids": json.dumps(list(items)), "lengths": json.dumps([len(rows) for rows in items.values()])}
        path = self.folder / f"hidden-{self._next() if number is None else number:06d}.safetensors"
        with whole_file(path) as aside:
            save_file({"hidden": rows}, aside, metadata=described)
        self._take(path)
        return path

    def padded(
        self, item_ids: Sequence[str], response_mask: Bool[Tensor, "batch response"]
    ) -> Float[Tensor, "batch response hidden"]:
        """The items' hidden states in the layout of a batch: row i holds item_ids[i], zeros behind its end.

        Raises UserError if an item is missing or has another length than its response.
        """
        lengths = response_mask.sum(-1).tolist()
        rows = []
        for item_id, length in zip(item_ids, lengths, strict=True):
            if item_id not in self:
                raise UserError(f"{self.folder}: no teacher signal for {item_id!r}; run the score stage again")
            hidden = self[item_id]
            if len(hidden) != length:
                raise UserError(
                    f"{self.folder}: {item_id!r} has {len(hidden)} stored positions but {length} response tokens; "
                    "run the score stage again"
                )
            rows.append(nn.functional.pad(hidden, (0, 0, 0, response_mask.shape[-1] - length)))
        return torch.stack(rows)

    def _take(self, path: Path) -> None:
        described = _opened(path).metadata()
        start = 0
        for item_id, length in zip(parse_json(described["ids"]), parse_json(described["lengths"]), strict=True):
            self._places[item_id] = (path, start, start + length)
            start += length

    def _next(self) -> int:
        numbers = [int(path.stem.removeprefix("hidden-")) for path in self.folder.glob("hidden-*.safetensors")]
        return max(numbers, default=-1) + 1


def _opened(path: Path) -> Any:
    """A safetensors file, memory-mapped; raises UserError if it cannot be read."""
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it and run the score stage again") from error
