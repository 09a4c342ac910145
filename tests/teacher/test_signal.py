"""The teacher's signal: cached hidden states and the saved head give the live logits; resume; ragged lengths."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
)

from grkd.data.language import Item, collate, response_logits
from grkd.errors import UserError
from grkd.teacher import row_shards
from grkd.teacher.signal import HiddenCache, TeacherHead, check_head, final_hidden, mean_log_probs

FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "gemma2": (Gemma2Config, {"head_dim": 8, "sliding_window": 3, "final_logit_softcapping": 0.5}),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}),
    "granite": (GraniteConfig, {"logits_scaling": 4.0}),
    "cohere": (CohereConfig, {"logit_scale": 0.25}),
    "phi": (PhiConfig, {}),  # its head has a bias
}


def tiny(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    config_class, extra = FAMILIES[family]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 1}
    torch.manual_seed(0)
    config = config_class(**sizes, **heads, pad_token_id=1, initializer_range=0.3, **extra)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        torch.nn.init.normal_(head.bias)
    return model


def items() -> list[Item]:
    generator = torch.Generator().manual_seed(0)
    lengths = [(3, 5), (9, 2), (1, 7), (12, 1), (4, 4)]
    draw = [torch.randint(2, 40, (sum(pair),), generator=generator).tolist() for pair in lengths]
    return [
        Item(f"id/{n}", ids[: pair[0]], ids[pair[0] :]) for n, (ids, pair) in enumerate(zip(draw, lengths, strict=True))
    ]


@torch.no_grad()
def fill(cache: HiddenCache, model: PreTrainedModel, chosen: list[Item]) -> None:
    batch = collate(chosen, pad_token_id=1)
    hidden = final_hidden(model, batch)
    rows = zip(chosen, hidden, batch["response_mask"], strict=True)
    cache.write_shard({item.id: states[mask] for item, states, mask in rows})


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cached_logits_are_the_live_logits(family: str, tmp_path: Path) -> None:
    model, everything = tiny(family), items()
    writing = HiddenCache(tmp_path)
    fill(writing, model, everything[:3])
    fill(writing, model, everything[3:])
    TeacherHead.of(model).save(tmp_path / "head.safetensors")

    cache, head = HiddenCache(tmp_path), TeacherHead.load(tmp_path / "head.safetensors")
    assert list(cache) == [item.id for item in everything]
    chosen = [everything[index] for index in (4, 0, 3, 1, 2)]  # another order and other neighbours than when written
    batch = collate(chosen, pad_token_id=1)
    mask = batch["response_mask"]
    cached = head(torch.cat([cache[item.id] for item in chosen]))
    live = response_logits(model, batch)
    torch.testing.assert_close(cached, live[mask], rtol=1e-5, atol=1e-5)
    check_head(model, batch)


@pytest.mark.parametrize("family", ["gemma2", "granite", "cohere", "phi"])
@torch.no_grad()
def test_scale_soft_cap_and_bias_matter(family: str) -> None:
    """Without them the logits are others, so the test above would have seen it."""
    model = tiny(family)
    hidden = final_hidden(model, collate(items(), pad_token_id=1))
    bare = hidden @ model.get_output_embeddings().weight.T
    assert (bare - TeacherHead.of(model)(hidden)).abs().max() > 0.1


@torch.no_grad()
def test_no_logits_are_computed_for_the_hidden_states() -> None:
    model = tiny("llama")
    model.lm_head.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    assert final_hidden(model, collate(items(), pad_token_id=1)).shape == (5, 7, 32)


def test_check_head_refuses_a_model_whose_logits_are_not_its_head_alone() -> None:
    model = tiny("llama")
    model.lm_head.register_forward_hook(lambda _module, _inputs, logits: logits * 1.01)
    with pytest.raises(UserError, match=r"set score\.signal: live"):
        check_head(model, collate(items(), pad_token_id=1))


@torch.no_grad()
def test_bfloat16_teacher_is_stored_exactly_in_bfloat16(tmp_path: Path) -> None:
    model, chosen = tiny("gemma2", torch.bfloat16), items()
    batch = collate(chosen, pad_token_id=1)
    check_head(model, batch)
    cache = HiddenCache(tmp_path, dtype="bfloat16")
    fill(cache, model, chosen)
    stored = torch.cat([cache[item.id] for item in chosen])
    mask = batch["response_mask"]
    assert stored.dtype == torch.bfloat16
    assert torch.equal(stored, final_hidden(model, batch)[mask])
    TeacherHead.of(model).save(tmp_path / "head.safetensors")
    logits = TeacherHead.load(tmp_path / "head.safetensors", dtype=torch.float32)(stored)
    assert logits.dtype == torch.float32  # bf16 logits would have ties that the teacher has not
    torch.testing.assert_close(logits, response_logits(model, batch)[mask].float(), rtol=0.02, atol=0.02)


def test_float32_cache_keeps_float32(tmp_path: Path) -> None:
    rows, cache = torch.randn(3, 4), HiddenCache(tmp_path)
    cache.write_shard({"a": rows})
    assert torch.equal(HiddenCache(tmp_path)["a"], rows)


def test_rows_and_lengths_of_ragged_items(tmp_path: Path) -> None:
    cache = HiddenCache(tmp_path)
    stored = {f"item {n}": torch.full((length, 2), float(n)) for n, length in enumerate([3, 1, 4])}
    cache.write_shard(stored)
    for item_id, rows in stored.items():
        assert torch.equal(cache[item_id], rows)


def test_only_the_items_own_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    HiddenCache(tmp_path).write_shard({"a": torch.ones(2, 3), "b": torch.zeros(5, 3)})
    cache, read = HiddenCache(tmp_path), []

    class Spy:
        def __init__(self, path: Path, _cure: str) -> None:
            self.file = safe_open(path, framework="pt")

        def get_slice(self, name: str) -> Any:
            inner = self.file.get_slice(name)

            class Slice:
                def __getitem__(self, rows: slice) -> torch.Tensor:
                    read.append((rows.start, rows.stop))
                    return inner[rows]

            return Slice()

    monkeypatch.setattr(row_shards, "opened", Spy)
    assert cache["b"].shape == (5, 3)
    assert read == [(2, 7)]


def test_shards_are_held_as_far_as_they_fit(tmp_path: Path) -> None:
    cache = HiddenCache(tmp_path)
    first = cache.write_shard({"a": torch.ones(2, 3), "b": torch.zeros(5, 3)})
    later = cache.write_shard({"c": torch.full((4, 3), 2.0)})
    cache.hold(first.stat().st_size + later.stat().st_size - 1)
    first.unlink()  # what is held needs no file
    assert torch.equal(cache["b"], torch.zeros(5, 3))
    found = cache.rows_later(["c", "a"], pinned=False).result()
    assert torch.equal(found, torch.tensor([[2.0] * 3] * 4 + [[1.0] * 3] * 2))
    later.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        pickle.loads(pickle.dumps(cache))["c"]


def test_resume_of_a_half_written_cache(tmp_path: Path) -> None:
    """A kill in the middle of the second shard: the first is there, the half is not, and the work goes on."""
    first = HiddenCache(tmp_path)
    first.write_shard({"a": torch.ones(2, 3)})
    (tmp_path / "hidden-000001.safetensors.partial-99").write_bytes(b"half a shard")
    again = HiddenCache(tmp_path)
    assert "a" in again
    assert "b" not in again
    assert len(again) == 1
    again.write_shard({"b": torch.zeros(1, 3)})
    assert list(HiddenCache(tmp_path)) == ["a", "b"]
    assert torch.equal(HiddenCache(tmp_path)["a"], torch.ones(2, 3))


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_tensors: Any, path: Path, **_options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(row_shards, "save_file", fails)
    cache = HiddenCache(tmp_path)
    with pytest.raises(OSError, match="disk full"):
        cache.write_shard({"a": torch.ones(1, 1)})
    assert list(tmp_path.iterdir()) == []
    assert "a" not in cache


def test_more_shards_than_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_shards, "_OPEN_FILES", 2)
    cache = HiddenCache(tmp_path)
    for number in range(5):
        cache.write_shard({str(number): torch.full((1, 1), float(number))})
    for _ in range(2):
        assert [float(cache[str(number)]) for number in range(5)] == [0, 1, 2, 3, 4]
    assert len(cache._open) == 2


def test_a_cache_goes_to_worker_processes(tmp_path: Path) -> None:
    cache = HiddenCache(tmp_path)
    cache.write_shard({"a": torch.ones(2, 3)})
    assert cache["a"].shape == (2, 3)  # a file is open now
    assert torch.equal(pickle.loads(pickle.dumps(cache))["a"], cache["a"])


def test_cache_errors(tmp_path: Path) -> None:
    cache = HiddenCache(tmp_path)
    cache.write_shard({"a": torch.ones(2, 3)})
    with pytest.raises(ValueError, match=r"in the cache already: \['a'\]"):
        cache.write_shard({"a": torch.ones(2, 3), "b": torch.ones(2, 3)})
    with pytest.raises(ValueError, match="at least one item"):
        cache.write_shard({})
    with pytest.raises(ValueError, match="at least one row"):
        cache.write_shard({"c": torch.ones(0, 3)})
    with pytest.raises((ValueError, TypeCheckError)):
        cache.write_shard({"c": torch.ones(3)})
    with pytest.raises(KeyError):
        cache["b"]
    (tmp_path / "hidden-000007.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"hidden-000007.safetensors: cannot be read"):
        HiddenCache(tmp_path)


def test_head_cut_to_the_vocabulary(tmp_path: Path) -> None:
    model, hidden = tiny("phi"), torch.randn(2, 3, 32)
    TeacherHead.of(model, vocabulary=30).save(tmp_path / "head.safetensors")
    head = TeacherHead.load(tmp_path / "head.safetensors")
    assert head.weight.shape == (30, 32)
    torch.testing.assert_close(head(hidden), TeacherHead.of(model)(hidden)[..., :30])
    assert not any(parameter.requires_grad for parameter in head.parameters())
    assert not head(hidden).requires_grad


def test_mean_log_probs_against_a_loop() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 7, dtype=torch.float64) * 5
    ids = torch.randint(0, 7, (3, 4))
    mask = torch.tensor([[True, True, True, True], [True, False, False, False], [False] * 4])
    expected = []
    for row in range(3):
        probabilities = [
            float(logits[row, column].exp()[ids[row, column]] / logits[row, column].exp().sum())
            for column in range(4)
            if mask[row, column]
        ]
        expected.append(sum(torch.tensor(probabilities).double().log().tolist()) / max(len(probabilities), 1))
    torch.testing.assert_close(mean_log_probs(logits, ids, mask), torch.tensor(expected).double(), rtol=1e-6, atol=1e-6)
    rough = mean_log_probs(logits.bfloat16(), ids, mask)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, mean_log_probs(logits.bfloat16().float(), ids, mask), rtol=0, atol=0)


def test_mean_log_probs_gives_no_gradient_behind_the_end() -> None:
    logits = torch.randn(2, 3, 5)
    logits[0, 2] = torch.inf  # whatever stands behind the end stays out, NaN included
    logits.requires_grad_()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    values = mean_log_probs(logits, torch.zeros(2, 3, dtype=torch.long), mask)
    values.sum().backward()
    assert logits.grad is not None
    assert values.isfinite().all()
    assert not logits.grad[0, 2].nan_to_num(nan=1.0).any()
