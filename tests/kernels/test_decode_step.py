"""The steps of a decoder layer against transformers' own modules and plain attention in float64.

With GRKD_KERNELS=triton (and TRITON_INTERPRET=1) the Triton kernels run, in float32: see test_interpreter.py.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from grkd.kernels import decode_step

TRITON = os.environ.get("GRKD_KERNELS") == "triton"
FORM: dict[str, Any] = {"implementation": "triton" if TRITON else "torch"}
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gemma", [False, True])
@pytest.mark.parametrize("added", ["nothing", "plain", "normed"])
def test_norm_of_a_sum(gemma: bool, added: str) -> None:
    norm, inner = (
        (Gemma2RMSNorm(20, 1e-5), Gemma2RMSNorm(20, 1e-5))
        if gemma
        else (LlamaRMSNorm(20, 1e-5), LlamaRMSNorm(20, 1e-5))
    )
    for number, module in enumerate((norm, inner)):
        module.weight.data = draw(20, seed=number)
    states, more = draw(5, 20, seed=2), draw(5, 20, seed=3)
    expected = {"nothing": states, "plain": states + more, "normed": states + inner(more)}[added]
    total, normed = decode_step.add_norm(
        states,
        None if added == "nothing" else more,
        norm.weight.data,
        eps=1e-5,
        offset=1.0 if gemma else 0.0,
        added_weight=inner.weight.data if added == "normed" else None,
        **FORM,
    )
    torch.testing.assert_close(total, expected.detach(), **CLOSE)
    torch.testing.assert_close(normed, norm(expected).detach(), **CLOSE)


@pytest.mark.parametrize("dim", [8, 12])
def test_rotation_and_what_the_cache_holds(dim: int) -> None:
    rows, heads, kv, slots = 3, 4, 2, 7
    query, key, value = draw(rows, heads, dim), draw(rows, kv, dim, seed=1), draw(rows, kv, dim, seed=2)
    angles = torch.arange(slots)[:, None] * 0.7 ** torch.arange(dim // 2)
    cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
    places = torch.tensor([0, 6, 3])
    keys, values = draw(rows, kv, slots, dim, seed=3), draw(rows, kv, slots, dim, seed=4)
    expected_keys, expected_values = keys.clone(), values.clone()
    turned, turned_key = apply_rotary_pos_emb(
        query[:, :, None], key[:, :, None], cos[places][:, None], sin[places][:, None]
    )
    for row, place in enumerate(places.tolist()):
        expected_keys[row, :, place], expected_values[row, :, place] = turned_key[row, :, 0], value[row]
    found = decode_step.rotate_and_store(query, key, value, cos, sin, places, keys, values, **FORM)
    torch.testing.assert_close(found, turned[:, :, 0], **CLOSE)
    torch.testing.assert_close(keys, expected_keys, **CLOSE)
    torch.testing.assert_close(values, expected_values, **CLOSE)


@pytest.mark.parametrize(("heads", "kv", "dim"), [(6, 2, 8), (4, 4, 12)])
@pytest.mark.parametrize("options", [{}, {"softcap": 1.5}, {"window": 3}, {"window": 70, "softcap": 2.0}])
def test_attention_reads_what_a_row_sees(heads: int, kv: int, dim: int, options: dict[str, Any]) -> None:
    places, slots = torch.tensor([0, 2, 63, 64, 99]), 100
    query = draw(5, heads, dim)
    keys, values = draw(5, kv, slots, dim, seed=1), draw(5, kv, slots, dim, seed=2)
    expected = []
    for row, place in enumerate(places.tolist()):
        first = max(0, place + 1 - options.get("window", slots))
        k = keys[row, :, first : place + 1].double().repeat_interleave(heads // kv, 0)
        v = values[row, :, first : place + 1].double().repeat_interleave(heads // kv, 0)
        scores = torch.einsum("hd,hsd->hs", query[row].double(), k) * 0.6
        cap = options.get("softcap")
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        expected.append(torch.einsum("hs,hsd->hd", scores.softmax(-1), v))
        keys[row, :, place + 1 :] = torch.nan  # what was there before
        values[row, :, place + 1 :] = torch.nan
    found = decode_step.attend(query, keys, values, places, scale=0.6, **options, **FORM)
    torch.testing.assert_close(found.double(), torch.stack(expected), **CLOSE)


def test_gates() -> None:
    gate, up = 3 * draw(5, 333), draw(5, 333, seed=1)
    for activation, expected in (
        ("silu", torch.nn.functional.silu(gate.double()) * up),
        ("gelu_tanh", torch.nn.functional.gelu(gate.double(), approximate="tanh") * up),
    ):
        found = decode_step.gated(gate, up, activation=activation, **FORM)
        torch.testing.assert_close(found.double(), expected, **CLOSE)
