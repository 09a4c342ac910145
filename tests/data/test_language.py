"""Batches of ragged prompts and responses: padding moves nothing, and each logit column predicts its own token."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from grkd.data.language import (
    Item,
    check_head_size,
    collate,
    cut_vocabulary,
    response_logits,
    vocabulary_size,
    within_context,
)
from grkd.errors import UserError

FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {"head_dim": 8, "sliding_window": 4, "final_logit_softcapping": 0.5}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
}
PAD = 1  # also the end-of-sequence token


def tiny(family: str) -> PreTrainedModel:
    config_class, model_class, extra = FAMILIES[family]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    # Far larger weights than usual, so that a wrong position or a visible pad changes the logits clearly.
    ends = {"pad_token_id": PAD, "eos_token_id": PAD, "bos_token_id": 2}
    torch.manual_seed(0)
    return model_class(config_class(**sizes, **heads, **ends, initializer_range=0.3, **extra)).eval()


def ragged() -> list[Item]:
    lengths = [(3, 5), (9, 2), (1, 7), (12, 1)]
    generator = torch.Generator().manual_seed(1)
    items = []
    for number, (prompt, response) in enumerate(lengths):
        ids = torch.randint(2, 40, (prompt + response,), generator=generator).tolist()
        ids[-1] = PAD  # every response ends with eos, which is also the padding
        items.append(Item(f"item{number}", ids[:prompt], ids[prompt:], index=10 + number))
    return items


def test_layout_by_hand() -> None:
    batch = collate([Item("a", [5, 6, 7], [8, PAD], 4), Item("b", [9], [3, 4, PAD], 2)], pad_token_id=PAD)
    assert {name: value.tolist() for name, value in batch.items()} == {
        "input_ids": [[5, 6, 7, 8, 1, 1], [1, 1, 9, 3, 4, 1]],
        "attention_mask": [[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]],
        "position_ids": [[0, 1, 2, 3, 4, 4], [0, 0, 0, 1, 2, 3]],
        "response_ids": [[8, 1, 1], [3, 4, 1]],
        "response_mask": [[True, True, False], [True, True, True]],
        "item_index": [4, 2],
    }


def test_eos_stays_trainable_where_it_is_also_the_padding() -> None:
    items = ragged()
    batch = collate(items, pad_token_id=PAD)
    for row, item in enumerate(items):
        assert batch["response_ids"][row][batch["response_mask"][row]].tolist() == item.response_ids


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_an_item_has_the_same_logits_alone_and_in_a_ragged_batch(family: str) -> None:
    model, items = tiny(family), ragged()
    together = response_logits(model, collate(items, pad_token_id=PAD))
    for row, item in enumerate(items):
        ids = torch.tensor([item.prompt_ids + item.response_ids])
        alone = model(ids).logits[0, len(item.prompt_ids) - 1 : -1]
        torch.testing.assert_close(together[row, : len(item.response_ids)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_each_column_is_the_prediction_of_its_token(family: str) -> None:
    """Token by token: the model sees only what is before the token that it predicts."""
    model, items = tiny(family), ragged()[:2]
    logits = response_logits(model, collate(items, pad_token_id=PAD))
    for row, item in enumerate(items):
        for column in range(len(item.response_ids)):
            seen = item.prompt_ids + item.response_ids[:column]
            expected = model(torch.tensor([seen])).logits[0, -1]
            torch.testing.assert_close(logits[row, column], expected, rtol=1e-4, atol=1e-5)


class _Full(torch.nn.Module):
    """A model whose forward always computes every column and makes positions by itself."""

    def __init__(self, inner: PreTrainedModel) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> Any:
        assert not use_cache
        positions = (attention_mask.cumsum(-1) - 1).clamp_min(0)
        return self.inner(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions)


class _Wrapped(torch.nn.Module):
    """As DistributedDataParallel: the model is in `module`, the signature says nothing."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self.module(*arguments, **named)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's, on newer transformers
@torch.no_grad()
def test_models_without_logits_to_keep_and_wrapped_models() -> None:
    model, batch = tiny("llama"), collate(ragged(), pad_token_id=PAD)
    expected = response_logits(model, batch)
    assert expected.shape == (4, 7, 40)
    torch.testing.assert_close(response_logits(_Full(model), batch), expected)
    torch.testing.assert_close(response_logits(_Wrapped(_Full(model)), batch), expected)

    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].shape[1]))
    torch.testing.assert_close(response_logits(_Wrapped(model), batch), expected)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    torch.testing.assert_close(response_logits(adapted, batch), expected)
    assert seen == [8, 8]  # R + 1 columns: the prompt's logits were never computed


def test_collate_refuses_empty_parts() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        collate([], pad_token_id=0)
    for item in (Item("x", [], [1]), Item("x", [1], [])):
        with pytest.raises(ValueError, match="'x' has an empty prompt or response"):
            collate([item], pad_token_id=0)


def tokenizer(added: int) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 7}, unk_token="a"))
    )
    made.add_tokens([f"<{number}>" for number in range(added)])
    return made


def head(rows: int) -> Any:
    return SimpleNamespace(get_output_embeddings=lambda: torch.nn.Linear(4, rows))


def test_vocabulary_is_counted_by_the_largest_id() -> None:
    made = tokenizer(added=0)
    assert len(made) == 3  # what a count of tokens would give
    assert vocabulary_size(made) == 8
    most = vocabulary_size(tokenizer(added=9))
    assert most == max(tokenizer(added=9).get_vocab().values()) + 1 > 8
    assert check_head_size(head(64), made) == 8  # heads are padded to different sizes
    with pytest.raises(UserError, match="the teacher's head has 7 rows but its tokenizer has ids up to 7"):
        check_head_size(head(7), made, role="teacher")


def test_cut_vocabulary() -> None:
    logits = torch.arange(12.0).view(1, 2, 6)
    assert cut_vocabulary(logits, 4).tolist() == [[[0, 1, 2, 3], [6, 7, 8, 9]]]
    with pytest.raises(ValueError, match="6 logits"):
        cut_vocabulary(logits, 7)


@pytest.mark.parametrize(
    ("length", "context", "fits"), [(10, 15, True), (11, 99, False), (10, 14, False), (10, None, True)]
)
def test_within_context(length: int, context: int | None, fits: bool) -> None:
    assert within_context([0] * length, max_prompt_tokens=10, max_new_tokens=5, context=context) is fits
