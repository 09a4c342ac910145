"""Heads whose scale has another name in the model's config: the hidden states and the head give the model's logits."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from grkd.data.language import Item, captured_hidden, collate
from grkd.teacher.signal import check_head


@pytest.mark.parametrize(
    ("family", "extra"),
    [
        ("hyperclovax", {"logits_scaling": 4.0}),
        ("falcon_h1", {"lm_head_multiplier": 0.25, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8}),
    ],
)
@torch.no_grad()
def test_scales_of_the_head_by_other_names(family: str, extra: dict[str, Any]) -> None:
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "vocab_size": 40}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 2, "eos_token_id": 1}
    config = CONFIG_MAPPING[family](**sizes, **heads, pad_token_id=1, initializer_range=0.3, **extra)
    model = AutoModelForCausalLM.from_config(config).eval()
    batch = collate([Item("a", [5, 6, 7], [8, 9]), Item("b", [5], [7, 8, 9])], pad_token_id=1)
    check_head(model, batch)
    assert captured_hidden(model, batch) is None  # else the scale would be lost
