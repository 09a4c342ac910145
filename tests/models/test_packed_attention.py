"""Attention within the sequences of a packed row: the kernels, and the choice between them."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from grkd.data.language import Item, collate, response_logits
from grkd.data.packed import PACKED_ATTENTION, SHARING_ATTENTION, pack, packed_logits
from grkd.models import _packed_cudnn, packed_attention
from grkd.models import _packed_flex as kernels
from grkd.models._packed_flex import block_mask, shared_block_mask
from grkd.models._packed_kernels import KERNELS, Kernel, reference
from grkd.models._packed_row import PackedRow
from grkd.models.packed_attention import attention_difference, registered, take_packed_attention

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*flex_attention called without torch.compile:UserWarning")


def heads(**changes: Any) -> Any:
    return packed_attention._Heads(
        **{"queries": 4, "keys": 2, "width": 16, "scale": 0.3, "softcap": None, "window": None, **changes}
    )


@pytest.mark.parametrize("changes", [{}, {"softcap": 1.5, "window": 33}], ids=["plain", "cap and window"])
def test_flex_attention_is_plain_attention(changes: dict[str, Any]) -> None:
    """The mask is made of blocks' ends; grouped heads, scale, cap and window. Gradients need a GPU."""
    flex, asked = KERNELS["flex"].load(), heads(**changes)
    for shared in (False, True):
        found = attention_difference(flex, asked, device=CPU, dtype=torch.float32, backward=False, shared=shared)
        assert found < 1e-5


@pytest.mark.parametrize("window", [None, 1, 100, 128, 200, 300])
def test_blocks_hold_all_that_is_seen(window: int | None) -> None:
    starts = torch.tensor([0, 100, 400, 401, 640, 1024, 1024], dtype=torch.int32)
    mask = block_mask(starts, 1024, window)
    place = torch.arange(1024)
    dense = mask.mask_mod(0, 0, place[:, None], place)
    in_blocks = dense.view(8, 128, 8, 128).permute(0, 2, 1, 3)

    def listed(count: Tensor, index: Tensor) -> Tensor:
        found = torch.zeros(8, 8, dtype=torch.bool)
        for row in range(8):
            found[row, index[0, 0, row, : count[0, 0, row]].long()] = True
        return found

    partial = listed(mask.kv_num_blocks, mask.kv_indices)
    full = listed(mask.full_kv_num_blocks, mask.full_kv_indices)
    assert not (partial & full).any()
    assert bool(in_blocks[full].all())
    torch.testing.assert_close(partial | full, in_blocks.any(-1).any(-1))


@pytest.mark.parametrize("window", [None, 1, 100, 300])
def test_blocks_of_shared_prompts_hold_all_that_is_seen(window: int | None) -> None:
    starts = torch.tensor([0, 300, 420, 640, 640], dtype=torch.int32)
    key_starts = torch.tensor([0, 300, 600, 1000, 1000], dtype=torch.int32)
    mask = shared_block_mask(starts, 640, key_starts, 1024, window)
    dense = mask.mask_mod(0, 0, torch.arange(640)[:, None], torch.arange(1024))
    for query, end in ((0, 1), (299, 300), (300, 481), (419, 600), (420, 781), (639, 1000)):
        begin = max(end - (window or end), int(key_starts[torch.searchsorted(key_starts, end) - 1]))
        assert dense[query].nonzero().flatten().tolist() == list(range(begin, end))
    in_blocks = dense.view(5, 128, 8, 128).permute(0, 2, 1, 3)
    for row in range(5):
        full = mask.full_kv_indices[0, 0, row, : mask.full_kv_num_blocks[0, 0, row]].long()
        partial = mask.kv_indices[0, 0, row, : mask.kv_num_blocks[0, 0, row]].long()
        assert bool(in_blocks[row, full].all())
        seen = in_blocks[row].any(-1).any(-1).nonzero().flatten().tolist()
        assert set(seen) <= {*full.tolist(), *partial.tolist()}
        assert not set(full.tolist()) & set(partial.tolist())


@pytest.mark.parametrize("signature", ["new", "old"])
def test_the_calls_of_variable_length_attention(monkeypatch: pytest.MonkeyPatch, signature: str) -> None:
    """PyTorch's kernel needs a GPU: a stand-in with its arguments, as they are now and were.

    As the kernel's, its gradient of keys behind the last sequence is what the memory held.
    """
    import torch.nn.attention.varlen as module

    def plain(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, of_keys: Tensor, scale: float, window: Any) -> Tensor:
        for each in (k, v):
            each.register_hook(lambda found: found.index_fill(0, torch.arange(int(of_keys[-1]), len(k)), math.nan))
        given = [each.transpose(0, 1).unsqueeze(0) for each in (q, k, v)]
        return reference(*given, PackedRow(ends, 0, scale, window=window, key_starts=of_keys))[0]

    def new(q, k, v, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):  # type: ignore
        assert (enable_gqa, window_size[1]) == (True, 0)
        return plain(q, k, v, cu_q, cu_k, scale, None if window_size[0] < 0 else window_size[0] + 1)

    def old(q, k, v, cu_q, cu_k, max_q, max_k, is_causal=False):  # type: ignore
        assert is_causal
        assert q.shape[1:] == k.shape[1:]
        return plain(q, k, v, cu_q, cu_k, q.shape[-1] ** -0.5, None)

    monkeypatch.setattr(module, "varlen_attn", new if signature == "new" else old)
    asked = heads(window=33 if signature == "new" else None)
    for shared in (False, True):
        found = attention_difference(KERNELS["varlen"].load(), asked, device=CPU, dtype=torch.float32, shared=shared)
        assert found < 1e-5


def test_the_operators_around_cudnns_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its graphs need a GPU: plain attention in their place, under the same operators, compiled too."""

    def plain(*given: Any) -> None:
        with ThreadPoolExecutor(1) as threads:  # inside an operator PyTorch differentiates nothing; elsewhere it does
            threads.submit(run, *given).result()

    def run(backward: bool, given: Any, starts: Tensor, key_starts: Tensor, options: Any) -> None:
        longest, scale, window, _ = options
        row = PackedRow(starts, longest, scale, window=window or None, key_starts=key_starts)
        leaves = [given[name].detach().clone().requires_grad_() for name in ("q", "k", "v")]
        found = reference(*(each.transpose(0, 1)[None] for each in leaves), row)[0]
        if not backward:
            given["o"].copy_(found.detach())
            given["stats"].fill_(0.5)
            return
        assert bool((given["stats"] == 0.5).all())
        torch.testing.assert_close(given["o"].detach(), found.detach())
        for name, each in zip(("dq", "dk", "dv"), torch.autograd.grad(found, leaves, given["do"]), strict=True):
            given[name].copy_(each)
            if name != "dq":
                given[name][int(key_starts[-1]) :] = math.nan  # as the kernels leave it

    monkeypatch.setattr(_packed_cudnn, "_run", plain)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    attend = KERNELS["cudnn"].load()
    for window, shared in ((None, False), (33, True)):
        asked = heads(window=window)
        assert attention_difference(attend, asked, device=CPU, dtype=torch.float32, shared=shared) < 1e-5
    options: Any = (torch.tensor([0, 3, 5, 5]).int(), torch.tensor([0, 3, 5, 5]).int(), 3, 0.3, 0, False)
    inputs = [torch.randn(5, many, 8, requires_grad=True) for many in (4, 2, 2)]
    torch.library.opcheck(torch.ops.grkd.ragged_attention.default, (*inputs, *options))
    places = _packed_cudnn._places(options[0], options[1], (4, 2, 8))
    assert {name: each.tolist() for name, each in places.items()} == {
        "q_at": [0, 96, 160, 160], "k_at": [0, 48, 80, 80], "stats_at": [0, 12, 20, 20],
        "q_lengths": [3, 2, 0], "k_lengths": [3, 2, 0],
    }  # fmt: skip
    assert _packed_cudnn._places(options[0], options[1], (4, 2, 8)) is places
    assert _packed_cudnn._places(options[0], options[0], (4, 2, 8)) is not places
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 6))
    with pytest.raises(NotImplementedError, match="Hopper"):
        KERNELS["cudnn"].load()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("window", [None, 100])
def test_cudnns_attention(window: int | None, shared: bool) -> None:
    """Values and gradients are plain attention's up to 16 bits; a sequence is its own, and empty ones do no harm."""
    pytest.importorskip("cudnn")
    asked = heads(queries=24, keys=8, width=128, scale=0.1, window=window)
    attend = KERNELS["cudnn"].load()
    for dtype in (torch.bfloat16, torch.float16):
        device = torch.device("cuda")
        assert attention_difference(attend, asked, device=device, dtype=dtype, shared=shared) < 0.02


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["cudnn", "varlen"])
def test_a_traced_layer_calls_the_same_kernel(name: str) -> None:
    """Compiled layers hold the call, and what it is told of the row, in one graph."""
    pytest.importorskip(KERNELS[name].package)
    attend, device = KERNELS[name].load(), torch.device("cuda")
    traced = torch.compile(attend, backend="aot_eager", fullgraph=True)
    asked = heads(queries=16, keys=8, width=128, scale=0.1)
    for shared in (False, True):
        assert attention_difference(traced, asked, device=device, dtype=torch.bfloat16, shared=shared) < 0.02


@pytest.mark.parametrize("window", [None, 1, 3, 20])
def test_keys_that_end_with_the_queries_own(window: int | None) -> None:
    """Plain attention, sequence by sequence and query by query."""
    torch.manual_seed(0)
    queries, keys = (4, 1, 3), (4, 6, 3)
    query, key, value = (torch.randn(1, 2, sum(many), 8, dtype=torch.float64) for many in (queries, keys, keys))
    starts, key_starts = (torch.tensor([0, *torch.tensor(many).cumsum(0)]).int() for many in (queries, keys))
    row = PackedRow(starts, longest=6, scale=0.7, softcap=2.0, window=window, key_starts=key_starts)
    found = reference(query, key, value, row)
    for number, (own, seen) in enumerate(zip(queries, keys, strict=True)):
        for at in range(own):
            end = int(key_starts[number]) + seen - own + at + 1
            begin = max(int(key_starts[number]), end - (window or end))
            asked = query[0, :, int(starts[number]) + at]
            scores = torch.stack(
                [2.0 * torch.tanh(0.7 * (asked * key[0, :, k]).sum(-1) / 2.0) for k in range(begin, end)]
            )
            weights = scores.softmax(0)
            own_sum = sum(weights[k - begin, :, None] * value[0, :, k] for k in range(begin, end))
            torch.testing.assert_close(found[0, int(starts[number]) + at], own_sum)


def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=30, num_attention_heads=2, num_key_value_heads=1, initializer_range=0.3, **sizes)
    ).eval()


def test_a_kernel_serves_packed_rows_and_leaves_other_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: flex attention is registered, packed rows go to it, padded batches to the model's own attention."""
    model, items = tiny(), [Item("a", [5, 6, 7], [8, 9]), Item("b", [10], [11, 12, 13])]
    padded = collate(items, pad_token_id=0)
    with torch.no_grad():
        own = response_logits(model, padded)[padded["response_mask"]]
    model.set_attn_implementation(registered("flex", KERNELS["flex"].load(), before="sdpa"))
    asked: list[int] = []
    made = kernels.block_mask
    monkeypatch.setattr(kernels, "block_mask", lambda *given: asked.append(1) or made(*given))
    with torch.no_grad():
        torch.testing.assert_close(response_logits(model, padded)[padded["response_mask"]], own)
        assert not asked
        torch.testing.assert_close(packed_logits(model, pack(items, pad_token_id=0)), own)
    assert len(asked) == 1  # one mask for all layers
    assert model.config._attn_implementation.startswith(PACKED_ATTENTION)


def test_a_kernel_with_wrong_numbers_is_not_taken(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def wrong(query: Tensor, key: Tensor, value: Tensor, row: PackedRow) -> Tensor:
        return reference(query, key, value, row._replace(scale=2 * row.scale))

    def broken(*given: Any) -> Tensor:
        raise RuntimeError("no such\ninstruction")

    made = {name: Kernel(package="torch", caps=True, load=lambda f=f: f) for name, f in (("a", wrong), ("b", broken))}
    large = Kernel(package="torch", caps=True, load=lambda: reference, least=10**6)  # right, but not for small models
    monkeypatch.setattr(packed_attention, "KERNELS", {"large": large, **made})
    real = packed_attention.attention_difference
    on_cpu = lambda attend, heads, **_: real(attend, heads, device=CPU, dtype=torch.float32)  # noqa: E731
    monkeypatch.setattr(packed_attention, "attention_difference", on_cpu)
    packed_attention._tested.cache_clear()
    model = tiny()
    assert take_packed_attention(model, device=torch.device("cuda"), dtype=torch.bfloat16) is None
    said = " ".join(capsys.readouterr().err.split())
    assert "not by a (its numbers are off by" in said
    assert "not by b (it fails here: no such instruction)" in said
    assert "batches are padded" in said
    assert model.config._attn_implementation == "sdpa"
    assert take_packed_attention(model, device=CPU, dtype=torch.float32) == "mask of blocks"
    packed_attention._tested.cache_clear()


@pytest.mark.parametrize("share", [True, False])
def test_sharing_is_tested_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch, share: bool) -> None:
    asked = []

    def difference(*given: Any, shared: bool, **options: Any) -> float:
        asked.append(shared)
        return 0.0

    kernel = Kernel(package="torch", caps=True, load=lambda: reference, shares=True)
    monkeypatch.setattr(packed_attention, "KERNELS", {f"good-{share}": kernel})
    monkeypatch.setattr(packed_attention, "attention_difference", difference)
    packed_attention._tested.cache_clear()
    model = tiny()
    assert take_packed_attention(model, device=torch.device("cuda"), dtype=torch.bfloat16, share=share)
    assert asked == ([False, True] if share else [False])
    assert model.config._attn_implementation.startswith(SHARING_ATTENTION) is share
    packed_attention._tested.cache_clear()
