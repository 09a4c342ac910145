"""Tiny random models with the architecture, chat template and special tokens of Gemma-2-It and Llama-3-Instruct."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
LLAMA_SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
]
# The text that these make is the published templates'; the second leaves out Llama's dates and tools.
GEMMA_TEMPLATE = """\
{{- bos_token -}}
{%- if messages[0].role == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}
{%- for turn in messages -%}
{%- if (loop.index0 % 2 == 0) != (turn.role == 'user') -%}{{- raise_exception('Roles must alternate') -}}{%- endif -%}
{{- '<start_of_turn>' + ('model' if turn.role == 'assistant' else turn.role) + '\\n' -}}
{{- turn.content | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}"""
LLAMA_TEMPLATE = """\
{{- bos_token -}}
{%- for turn in messages -%}
{{- '<|start_header_id|>' + turn.role + '<|end_header_id|>\\n\\n' + turn.content | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}"""


def _tokenizer(special: list[str], template: str, **roles: str) -> PreTrainedTokenizerFast:
    """Every byte is a token; the tokenizer writes a BOS by itself, as the published ones do."""
    vocabulary = {piece: index for index, piece in enumerate([*special, *BYTES])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    bos = roles["bos_token"]
    inner.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **roles)
    made.add_special_tokens({"additional_special_tokens": special})
    made.chat_template = template
    return made


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    return _tokenizer(GEMMA_SPECIAL, GEMMA_TEMPLATE, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama-3's, without a padding token."""
    return _tokenizer(LLAMA_SPECIAL, LLAMA_TEMPLATE, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def save_gemma(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Soft caps low enough to matter for random weights; a window shorter than the prompts."""
    words = gemma_tokenizer()
    settings: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "max_position_embeddings": 2048,
        "sliding_window": 8,
        "initializer_range": 0.3,
        "attn_logit_softcapping": 1.0,
        "final_logit_softcapping": 3.0,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    torch.manual_seed(seed)
    model = Gemma2ForCausalLM(Gemma2Config(**(settings | changes)))
    return _saved(model, words, ["<eos>", "<end_of_turn>"], folder)


def save_llama(folder: Path, *, seed: int = 0, layers: int = 2, stops: float = 0.0) -> Path:
    """With Llama-3.1's positions. stops: all three stop tokens have the same logit, rising with it, everywhere."""
    words = llama_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        initializer_range=0.3,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.convert_tokens_to_ids("<|end_of_text|>"),
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    stop_names = ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
    if stops:
        # The last norm's output has one large entry throughout: its column of the head is a bias.
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight[0] = 0
                layer.mlp.down_proj.weight[0] = 0
            model.model.embed_tokens.weight[:, 0] = 3.0
            model.lm_head.weight[:, 0] = 0
            model.lm_head.weight[words.convert_tokens_to_ids(stop_names)] = 0
            model.lm_head.weight[words.convert_tokens_to_ids(stop_names), 0] = stops
    return _saved(model, words, stop_names, folder)


def _saved(model: PreTrainedModel, words: PreTrainedTokenizerFast, stops: list[str], folder: Path) -> Path:
    model.generation_config.eos_token_id = words.convert_tokens_to_ids(stops)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
