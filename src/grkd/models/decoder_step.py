"""One token per row through a decoder over a static cache, by the live parameters of a transformers model."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from grkd.kernels import decode_step
from grkd.models.float8 import FLOAT8

# Families whose layers are what `DecoderStep._layer` computes. An unknown one is left to `generate`.
FAMILIES = ("gemma2", "llama", "mistral", "qwen2", "qwen3")
_ACTIVATIONS: dict[str, decode_step.Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_PREFILL_TOKENS = 16_384  # of prompts, padding counted, that go through the model at a time


def unsupported(model: PreTrainedModel) -> str | None:
    """Why DecoderStep cannot run this model; None if it can."""
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    if config.model_type not in FAMILIES:
        return f"the static decode step does not know {config.model_type} models (known: {', '.join(FAMILIES)})"
    if _activation(config) not in _ACTIVATIONS:
        return f"the static decode step does not know the activation {_activation(config)}"
    if rope.get("rope_type", "default") in ("dynamic", "longrope"):
        return f"rotary frequencies of type {rope['rope_type']} change with the length"
    if getattr(config, "partial_rotary_factor", None) not in (None, 1.0) or rope.get("partial_rotary_factor", 1.0) != 1:
        return "only a part of each head is rotated"
    if getattr(model, "quantization_config", None) or getattr(config, "quantization_config", None):
        return "the weights are quantised"
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return "the weights lie on several devices"
    if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):
        return "the weights are sharded over ranks"
    return None


@dataclass(frozen=True)
class Cache:
    """Keys and values of every layer, [rows, kv, slots, dim]; slot s of a row holds its token number s."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def slots(self) -> int:
        return self.keys[0].shape[2]


class DecoderStep:
    """Next-token logits from one token per row; rows are at places of their own.

    dtype: of the computation. Parameters of that dtype, and layers in float8, are used where they lie; of the others a
    copy is kept, which `refresh` brings up to date. No dropout. The model must not be `unsupported`.
    """

    def __init__(self, model: PreTrainedModel, *, dtype: torch.dtype) -> None:
        parts = _parts_of(model)
        self._live = {id(parameter) for parameter in parts.parameters()}
        others = [parameter for parameter in parts.parameters() if parameter.dtype not in (dtype, FLOAT8)]
        self._copied: list[tuple[Tensor, Tensor]] = []
        if others:
            memo: dict[int, Any] = {id(parameter): parameter for parameter in parts.parameters()}
            for parameter in others:
                memo[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
                self._copied.append((memo[id(parameter)].data, parameter))
            parts = copy.deepcopy(parts, memo).eval()
        self.parts, self.dtype, self.device = parts, dtype, model.device
        self.config = model.config.get_text_config(decoder=True)
        self._decoder: Any = parts[0]
        self._head: Any = parts[1]
        layers: Any = self._decoder.layers
        self.dim: int = layers[0].self_attn.head_dim
        self.kv = int(self.config.num_key_value_heads)
        self.softcap: float | None = getattr(self.config, "final_logit_softcapping", None)
        self._eps = float(self.config.rms_norm_eps)
        self._gemma = self.config.model_type == "gemma2"
        self._tables: tuple[Tensor, Tensor] | None = None

    @property
    def head_size(self) -> int:
        """Entries of the logits."""
        return int(self._head.weight.shape[0])

    @property
    def copied_bytes(self) -> int:
        """Memory of the parameters that are copied."""
        return sum(copied.numel() * copied.element_size() for copied, _ in self._copied)

    def row_bytes(self, slots: int) -> int:
        """Memory of one row: cache, float32 logits and what is drawn by, ids and log-probabilities."""
        cache = 2 * len(self._decoder.layers) * self.kv * slots * self.dim * self.dtype.itemsize
        return cache + self.head_size * 8 + slots * 12

    def belongs_to(self, model: PreTrainedModel) -> bool:
        """Whether the model still has the parameters that this step was made for (an adapter may have come)."""
        return {id(parameter) for parameter in _parts_of(model).parameters()} == self._live

    @torch.no_grad()
    def refresh(self) -> None:
        """Bring copies of the parameters up to date."""
        if self._copied:
            torch._foreach_copy_([copied for copied, _ in self._copied], [live.detach() for _, live in self._copied])

    def addresses(self) -> tuple[int, ...]:
        """Where the parameters lie: a CUDA graph holds as long as these stay the same."""
        return tuple(parameter.data_ptr() for parameter in self.parts.parameters())

    def cache(self, rows: int, slots: int) -> Cache:
        """An empty cache; also makes the rotation tables for so many slots."""
        shape = (rows, self.kv, slots, self.dim)
        layers = range(len(self._decoder.layers))
        positions = torch.arange(slots, device=self.device)[None]
        like = torch.empty(1, dtype=self.dtype, device=self.device)
        cos, sin = self._decoder.rotary_emb(like, positions)
        self._tables = cos[0].contiguous(), sin[0].contiguous()
        keys, values = (
            tuple(torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in layers) for _ in range(2)
        )
        return Cache(keys, values)

    @torch.no_grad()
    def prefill(self, prompts: Sequence[Sequence[int]], rows: Sequence[int], cache: Cache) -> None:
        """All tokens but the last of each prompt, into the cache's rows; equal prompts are computed once.

        Padding stands behind the tokens, which do not see it; it is overwritten before its slot is read.
        """
        taken: dict[tuple[int, ...], list[int]] = {}
        for prompt, row in zip(prompts, rows, strict=True):
            taken.setdefault(tuple(prompt[:-1]), []).append(row)
        different = sorted((known for known in taken if known), key=len, reverse=True)
        while different:
            longest = len(different[0])
            at_once = max(1, _PREFILL_TOKENS // longest)
            part, different = different[:at_once], different[at_once:]
            ids = torch.tensor([[*known, *[0] * (longest - len(known))] for known in part], device=self.device)
            found: Any = DynamicCache()  # without a config: layers with a window keep all keys
            self._decoder(input_ids=ids, past_key_values=found, use_cache=True)
            source = [number for number, known in enumerate(part) for _ in taken[known]]
            target = [row for known in part for row in taken[known]]
            places = torch.tensor([source, target], device=self.device)
            for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
                keys[places[1], :, :longest] = found.layers[layer].keys[places[0]].to(self.dtype)
                values[places[1], :, :longest] = found.layers[layer].values[places[0]].to(self.dtype)

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, " rows"], places: Int[Tensor, " rows"], cache: Cache
    ) -> Float[Tensor, "rows vocabulary"]:
        """Logits after `tokens`, which stand at `places` and go into the cache; without the final soft cap."""
        states = self._embedded(tokens)
        added: Tensor | None = None
        post: Tensor | None = None
        for number, layer in enumerate(self._decoder.layers):
            kept = cache.keys[number], cache.values[number]
            states, added, post = self._layer(layer, states, added, post, places, kept)
        _, hidden = self._norm(states, added, self._decoder.norm, post)
        if type(self._head) is nn.Linear and self._head.bias is None and hidden.is_cuda:
            return decode_step.logits_of(hidden, self._head.weight)
        found: Tensor = self._head(hidden)
        return found

    def _embedded(self, tokens: Tensor) -> Tensor:
        table = self._decoder.embed_tokens
        states: Tensor = table(tokens)
        if self._gemma and type(table) is nn.Embedding:  # other versions of transformers scale inside the table
            states = states * torch.tensor(self.config.hidden_size**0.5, dtype=states.dtype)
        return states.to(self.dtype)

    def _layer(
        self,
        layer: Any,
        states: Tensor,
        added: Tensor | None,
        post: Tensor | None,
        places: Tensor,
        kept: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(states, what is to be added to them, the norm before that, if any): the sum belongs to the next norm."""
        attention, mlp = layer.self_attn, layer.mlp
        states, normed = self._norm(states, added, layer.input_layernorm, post)
        heads = self._attention(attention, normed, places, kept)
        added = attention.o_proj(heads.flatten(1))
        before_mlp = layer.pre_feedforward_layernorm if self._gemma else layer.post_attention_layernorm
        after_attention = layer.post_attention_layernorm.weight if self._gemma else None
        states, normed = self._norm(states, added, before_mlp, after_attention)
        opened = decode_step.gated(
            mlp.gate_proj(normed), mlp.up_proj(normed), activation=_ACTIVATIONS[_activation(self.config)]
        )
        return states, mlp.down_proj(opened), layer.post_feedforward_layernorm.weight if self._gemma else None

    def _attention(self, attention: Any, normed: Tensor, places: Tensor, kept: tuple[Tensor, Tensor]) -> Tensor:
        assert self._tables is not None
        query, key, value = (
            project(normed).view(len(normed), -1, self.dim)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if self.config.model_type == "qwen3":
            query, key = self._head_norm(query, attention.q_norm), self._head_norm(key, attention.k_norm)
        query = decode_step.rotate_and_store(query, key, value, *self._tables, places, *kept)
        return decode_step.attend(
            query,
            *kept,
            places,
            scale=attention.scaling,
            softcap=getattr(attention, "attn_logit_softcapping", None),
            window=self._window(attention),
        )

    def _window(self, attention: Any) -> int | None:
        if self.config.model_type == "mistral":  # its layers do not say
            return getattr(self.config, "sliding_window", None)
        return getattr(attention, "sliding_window", None)

    def _norm(self, states: Tensor, added: Tensor | None, norm: Any, post: Tensor | None) -> tuple[Tensor, Tensor]:
        return decode_step.add_norm(
            states, added, norm.weight, eps=self._eps, offset=1.0 if self._gemma else 0.0, added_weight=post
        )

    def _head_norm(self, heads: Tensor, norm: Any) -> Tensor:
        flat = heads.reshape(-1, self.dim)
        return decode_step.add_norm(flat, None, norm.weight, eps=self._eps)[1].view(heads.shape)


def _parts_of(model: PreTrainedModel) -> nn.ModuleList:
    return nn.ModuleList([model.get_decoder(), model.get_output_embeddings()])


def _activation(config: Any) -> str:
    return str(getattr(config, "hidden_activation", None) or config.hidden_act)
