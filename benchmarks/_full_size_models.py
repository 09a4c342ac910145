"""The two pairs of the paper at their real sizes with random weights, random data, and what a step must compute."""

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedTokenizerFast

from grkd.data.language import Item

PAIRS = ("gemma", "llama")
_TOKENS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
_FIRST = 4  # token ids below are special
_GEMMA = {"vocab_size": 256_000, "head_dim": 256, "query_pre_attn_scalar": 256, "max_position_embeddings": 8192}
_LLAMA = {"vocab_size": 128_256, "head_dim": 128, "num_key_value_heads": 8, "max_position_embeddings": 131_072}


def _sizes(hidden: int, layers: int, heads: int, intermediate: int, **more: Any) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {**dict(zip(names, (hidden, layers, heads, intermediate), strict=True)), **more}


_SIZES = {
    "gemma": (
        _GEMMA,
        _sizes(3584, 42, 16, 14_336, num_key_value_heads=8),
        _sizes(2304, 26, 8, 9216, num_key_value_heads=4),
    ),
    "llama": (
        _LLAMA,
        _sizes(4096, 32, 32, 14_336, tie_word_embeddings=False),
        _sizes(3072, 28, 24, 8192, tie_word_embeddings=True),
    ),
}
_TINY = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_TINY |= {"num_key_value_heads": 1, "intermediate_size": 64, "head_dim": 16, "max_position_embeddings": 256}


def configs(pair: str, *, tiny: bool = False) -> tuple[Any, Any]:
    """Configs of teacher and student: Gemma-2 9B and 2B, or Llama 3.1 8B and 3.2 3B. tiny: for tests."""
    common, *sides = _SIZES[pair]
    found = []
    for side in sides:
        sizes = {**common, **side, **(_TINY if tiny else {}), **_TOKENS}
        if pair == "gemma":
            sizes |= {"query_pre_attn_scalar": sizes["head_dim"]}
            found.append(Gemma2Config(**sizes))
        else:
            found.append(LlamaConfig(**sizes, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}))
    return found[0], found[1]


def built(config: Any, *, dtype: torch.dtype, device: torch.device, seed: int) -> Any:
    """A model with random weights, made on the device."""
    torch.manual_seed(seed)
    with device:
        model: Any = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
    model.generation_config.update(**_TOKENS)
    return model


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A word per token id, w4 w5 ...: for trainers that take text alone."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"w{number}" for number in range(_FIRST, vocabulary))]
    inner = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, padding_side="left", model_max_length=10**6, **special)


def text(ids: Sequence[int]) -> str:
    return " ".join(f"w{number}" for number in ids)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """prompt, response: in tokens, the end among the response's; varied: each uniform from 1/4 to 7/4 of its length."""

    prompt: int = 256
    response: int = 512
    varied: bool = False

    def drawn(self, draw: random.Random) -> tuple[int, int]:
        if not self.varied:
            return self.prompt, self.response
        return tuple(draw.randint(size // 4, 7 * size // 4) for size in (self.prompt, self.response))  # type: ignore


def random_items(count: int, lengths: Lengths, *, vocabulary: int, per_prompt: int, seed: int = 0) -> list[Item]:
    """Prompts and responses of random tokens; `per_prompt` of them one after the other share a prompt."""
    draw, items = random.Random(seed), []
    prompt: list[int] = []
    for number in range(count):
        prompt_length, response_length = lengths.drawn(draw)
        if number % per_prompt == 0:
            prompt = draw.choices(range(_FIRST, vocabulary), k=prompt_length)
        response = [*draw.choices(range(_FIRST, vocabulary), k=response_length - 1), _TOKENS["eos_token_id"]]
        items.append(Item(str(number), list(prompt), response, number))
    return items


def step_flops(
    student: Any,
    teacher: Any,
    items: Sequence[Item],
    *,
    recompute: bool,
    body: bool,
    head: bool,
    copies: int = 1,
    kept_layers: int = 0,
) -> dict[str, float]:
    """Floating-point operations that the steps over these items need, of real tokens alone.

    Matrix products: 2 per weight and token forward, 4 backward, 2 again where layers are recomputed; attention 4 per
    query, seen key and channel forward. Heads at response tokens alone. body, head: whether the teacher's run.
    needed: without recomputation; done: with it, of all but kept_layers. copies: so many items share one copy of their
    prompt.
    """
    lengths = [(len(item.prompt_ids), len(item.response_ids)) for item in items]
    tokens = sum(prompt / copies + response for prompt, response in lengths)
    seen = sum(prompt**2 / 2 / copies + response * (prompt + response / 2) for prompt, response in lengths)
    responses = sum(len(item.response_ids) for item in items)

    def forward(config: Any) -> float:
        queries, keys = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
        weights = config.hidden_size * (2 * queries + 2 * keys + 3 * config.intermediate_size)
        return float(config.num_hidden_layers * (2 * weights * tokens + 4 * queries * seen))

    def of_head(config: Any) -> float:
        return float(2 * config.hidden_size * config.vocab_size * responses)

    others = (forward(teacher) if body else 0.0) + (of_head(teacher) if head else 0.0)
    needed = 3 * (forward(student) + of_head(student)) + others
    again = 1 - kept_layers / student.num_hidden_layers if recompute else 0.0
    return {"needed": needed, "done": needed + again * forward(student)}
