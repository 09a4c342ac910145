"""A finished student as a GGUF file, for llama.cpp and what is built on it: Llama's architecture, BPE tokenizers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from grkd.errors import UserError
from grkd.files import parse_json, whole_file
from grkd.models.load import load_language_model, load_tokenizer

Precision = Literal["float16", "float32"]

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # token types of GGUF


def export_gguf(student: Path, path: Path, *, precision: Precision = "float16") -> None:
    """Write a student's folder as one GGUF file. Norms stay float32.

    Raises UserError without the gguf package, for another architecture than Llama's, for scaled rotary embeddings, and
    for a tokenizer whose splitting llama.cpp has no name for: it would silently make other tokens.
    """
    try:
        import gguf
    except ImportError:
        raise UserError("export: GGUF files need the gguf package: pip install 'grkd[gguf]'") from None
    model: Any = load_language_model(str(student), dtype=torch.float32)
    tokenizer = load_tokenizer(str(student))
    _check(student, model.config)
    vocabulary = _vocabulary(student, tokenizer, model.config.vocab_size)
    with whole_file(path) as aside:
        writer = gguf.GGUFWriter(aside, "llama")
        _describe(writer, model.config, student)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32 if precision == "float32" else gguf.LlamaFileType.MOSTLY_F16)
        _add_tokens(writer, tokenizer, vocabulary, model.generation_config)
        for name, values in _tensors(model):
            kept = precision == "float32" or values.ndim == 1
            writer.add_tensor(name, values if kept else values.astype(np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _check(student: Path, config: Any) -> None:
    if config.model_type != "llama":
        raise UserError(
            f"{student}: a {config.model_type} model; export writes Llama's architecture (Llama, SmolLM2) alone. "
            "llama.cpp's convert_hf_to_gguf.py reads the folder as it is"
        )
    rotary = getattr(config, "rope_parameters", None) or {}
    biased = config.attention_bias or config.mlp_bias
    if rotary.get("rope_type", "default") != "default" or biased:
        what = "biases in its layers" if biased else f"rotary embeddings of type {rotary['rope_type']}"
        raise UserError(f"{student}: {what} are not written here; use llama.cpp's convert_hf_to_gguf.py on the folder")


def _describe(writer: Any, config: Any, student: Path) -> None:
    """The numbers of the architecture."""
    rotary = getattr(config, "rope_parameters", None) or {}
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(student.resolve().name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(rotary.get("rope_theta", 10_000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _tensors(model: nn.Module) -> Iterator[tuple[str, np.ndarray]]:
    """(GGUF name, values) of every weight; a head that is tied to the embeddings has none."""
    import gguf

    config: Any = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        part = name.split(".")[-2]
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(part)
        values = weight if heads is None else interleaved(weight, heads)
        yield names.get_name(name, try_suffixes=(".weight",)), values.float().contiguous().numpy()


def interleaved(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection in GGUF's order: pairs that are rotated together side by side.

    transformers rotates row i of a head with row i + width / 2; GGUF has them as 2 i and 2 i + 1.
    """
    halves = weight.reshape(heads, 2, -1, weight.shape[-1])
    return halves.transpose(1, 2).reshape(weight.shape)


def _vocabulary(student: Path, tokenizer: PreTrainedTokenizerBase, size: int) -> dict[str, Any]:
    """pre, tokens, types and merges. Raises UserError for a tokenizer that is not known to be BPE as llama.cpp's."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = parse_json(backend.to_str()) if backend is not None else {}
    pre = _split_name(described.get("pre_tokenizer"))
    if described.get("model", {}).get("type") != "BPE" or described.get("normalizer") or pre is None:
        raise UserError(
            f"{student}: its tokenizer is none of those that export can name for llama.cpp (byte-level BPE of GPT-2 or "
            "SmolLM2); use llama.cpp's convert_hf_to_gguf.py on the folder"
        )
    added = {token["id"]: token["special"] for token in described.get("added_tokens", [])}
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(size)]
    types = [
        (_CONTROL if added[number] else _USER_DEFINED) if number in added else _NORMAL if number in by_id else _UNUSED
        for number in range(size)
    ]
    merges = [one if isinstance(one, str) else " ".join(one) for one in described["model"]["merges"]]
    return {"pre": pre, "tokens": tokens, "types": types, "merges": merges}


def _split_name(described: Any) -> str | None:
    """llama.cpp's name of the way in which a tokenizer splits text before BPE; None for one that is not known here."""
    parts = described.get("pretokenizers", [described]) if isinstance(described, dict) else []
    kinds = [part.get("type") for part in parts]
    level = parts[-1] if parts else {}
    if kinds[-1:] != ["ByteLevel"] or level.get("add_prefix_space") or not level.get("use_regex", True):
        return None
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    return "smollm" if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits") else None


def _add_tokens(writer: Any, tokenizer: PreTrainedTokenizerBase, vocabulary: dict[str, Any], generation: Any) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary["pre"])
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["types"])
    writer.add_token_merges(vocabulary["merges"])
    stops = generation.eos_token_id
    first = stops[0] if isinstance(stops, list) and stops else stops
    end = tokenizer.eos_token_id if first is None else first
    for number, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (end, writer.add_eos_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
    ):
        if number is not None:
            add(number)
    writer.add_add_bos_token(False)  # the chat template writes what the student was trained with
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
