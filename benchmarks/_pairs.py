"""The two pairs of the paper as models with random weights, and a larger teacher: shapes from the published configs."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedConfig, PreTrainedModel

PAD, END, BEGIN = 0, 1, 2
_IDS = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": BEGIN}
_GEMMA = {
    "vocab_size": 256_000,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 8192,
}
_LLAMA = {"vocab_size": 128_256, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 8192}


def _shape(width: int, layers: int, heads: int, inner: int, **more: Any) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {**dict(zip(names, (width, layers, heads, inner), strict=True)), **more}


# (teacher, student): keyword arguments of their configs.
PAIRS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any], dict[str, Any]]] = {
    "gemma-2 9B to 2B": (
        Gemma2Config,
        _GEMMA | _shape(3584, 42, 16, 14336, num_key_value_heads=8),
        _GEMMA | _shape(2304, 26, 8, 9216, num_key_value_heads=4),
    ),
    "llama-3 8B to 3B": (
        LlamaConfig,
        _LLAMA | _shape(4096, 32, 32, 14336, tie_word_embeddings=False),
        _LLAMA | _shape(3072, 28, 24, 8192, tie_word_embeddings=True),
    ),
    # A teacher of 48 GiB in bfloat16 for a student of 1.4 billion weights.
    "large teacher": (
        LlamaConfig,
        _LLAMA | _shape(6144, 62, 48, 16384, tie_word_embeddings=False),
        _LLAMA | _shape(2048, 16, 32, 8192, tie_word_embeddings=True),
    ),
    # One of 8.6 GiB for a student of a tenth of a billion, for a GPU that may use half of that.
    "large teacher for one GPU": (
        LlamaConfig,
        _LLAMA | _shape(4096, 20, 32, 14336, vocab_size=32_000, tie_word_embeddings=False),
        _LLAMA | _shape(1024, 4, 16, 4096, vocab_size=32_000, tie_word_embeddings=True),
    ),
}
_TINY = _shape(64, 3, 4, 96, vocab_size=512, head_dim=16, num_key_value_heads=2)


def configs(pair: str, *, tiny: bool) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    """Configs of the pair's teacher and student; tiny: of the same kind, for a try on a CPU."""
    kind, teacher, student = PAIRS[pair]
    small: dict[str, Any] = _TINY if tiny else {}
    made = [kind(**{**shape, **small, **_IDS}) for shape in (teacher, student)]
    return made[0], made[1]


def gib(config: PreTrainedConfig, dtype: torch.dtype) -> float:
    """Memory of a model's weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 2**30


def built(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, *, seed: int) -> PreTrainedModel:
    """A model with random weights, made where it is to be."""
    torch.manual_seed(seed)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def on_meta(config: PreTrainedConfig, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A model with random weights whose layers are on the meta device."""
    one_layer = copy.deepcopy(config)
    one_layer.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        one_layer.layer_types = config.layer_types[:1]
    model = built(one_layer, dtype, device, seed=0)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.model.layers = whole.model.layers
    model.config = model.model.config = whole.config
    return model


def random_layer(layer: nn.Module, device: torch.device) -> None:
    """Random weights for a layer that is on the meta device."""
    layer.to_empty(device=device)
    for parameter in layer.parameters():
        parameter.data.normal_(0, 0.02)
