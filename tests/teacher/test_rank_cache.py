"""A cache of ranks: records that come back, weights that are right on average, shards that survive a kill."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from grkd.data.language import Group, Item, collate, response_logits
from grkd.errors import UserError
from grkd.files import read_json, write_json
from grkd.teacher import rank_build
from grkd.teacher.rank_build import fill
from grkd.teacher.rank_cache import HEADER, Origin, RankCache, content_key
from grkd.teacher.rank_codec import Candidates, RankCodec
from grkd.teacher.rank_draws import candidates_of

ORIGIN = Origin(teacher="t", weights="w", vocabulary="v", template="c", prompts="p")
ITEMS = [Item(f"train/{n}#0", [4, 5 + n], [6 + n, 7, 3][: 1 + n % 3]) for n in range(7)]
GROUPS = [
    Group(id=item.id.split("#")[0], items=(item,), teacher_scores=(0.0,), sources=("data",)) for item in ITEMS
]  # fmt: skip


@pytest.fixture
def teacher(tiny_teacher: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_teacher).eval()


def test_the_bytes_per_token() -> None:
    """16 candidates of 262,144: 16 x 18 bits and 15 of ties; a byte each, one of the tail, none of a sample's best."""
    for choose, order, whole in (("top", 38, 55), ("sample", 38, 53)):
        codec = RankCodec(vocabulary=262_144, choose=choose)
        assert codec.record_bytes == order <= 40
        assert replace(codec, log_probs=True).record_bytes == whole <= 56


@given(st.integers(2, 1 << 20), st.integers(2, 20), st.sampled_from(["top", "sample"]), st.integers(0, 1 << 30))
def test_records_come_back(vocabulary: int, entries: int, choose: Any, seed: int) -> None:
    """Ids and ties as they were, log-probabilities to within half a step; a sample's to one of the two around it.

    A sample's best is what the others leave of 1.
    """
    entries = min(entries, vocabulary)
    draws = np.random.default_rng(seed)
    rows = [draws.choice(vocabulary, entries, replace=False) for _ in range(5)]
    logs = torch.tensor(-draws.exponential(4.0, (5, entries)), dtype=torch.float32).sort(descending=True).values
    highest = 0.0
    if choose == "sample":
        logs, highest = logs.log_softmax(-1), math.log(0.5)
    logs = logs.clamp_min(-24)
    given = Candidates(
        ids=torch.tensor(np.stack(rows)), tied=torch.tensor(draws.random((5, entries - 1)) < 0.3),
        log_weights=logs, log_tail=logs[:, 0],
    )  # fmt: skip
    codec = RankCodec(vocabulary=vocabulary, entries=entries, choose=choose, log_probs=True)
    records = codec.encode(given)
    assert records.shape == (5, codec.record_bytes)
    found = codec.decode(records)
    assert torch.equal(found.ids, given.ids)
    assert torch.equal(found.tied, given.tied)
    assert found.log_weights is not None
    width = 2 * (24.5 * (highest - logs).clamp_min(0)).sqrt() / 255 + 24.5 / 255**2  # of a step at this depth
    first = 0 if choose == "top" else 1
    far = (found.log_weights - logs).abs() / (width / 2 if choose == "top" else width)
    assert bool((far[:, first:] <= 1.01 + 1e-3).all())
    if choose == "sample":
        torch.testing.assert_close(found.log_weights.exp().sum(-1), torch.ones(5))
    alone = RankCodec(vocabulary=vocabulary, entries=entries, choose=choose)
    assert torch.equal(alone.encode(given), records[:, : codec.order_bytes])


def test_the_top_by_hand() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0, 3.0, -1.0]])
    codec = RankCodec(vocabulary=5, entries=3, log_probs=True)
    found = candidates_of(scores, codec, temperature=2.0)
    assert found.ids.tolist() == [[1, 3, 2]]
    assert found.tied.tolist() == [[True, False]]
    assert found.tiers.tolist() == [[0, 0, 1]]
    logs = (scores / 2).log_softmax(-1)
    assert found.log_weights is not None
    assert found.log_tail is not None
    torch.testing.assert_close(found.log_weights, logs[:, [1, 3, 2]])
    torch.testing.assert_close(found.log_tail.exp(), logs[:, [0, 4]].exp().sum(-1))


@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_weights_of_a_sample_are_right_on_average(spread: float) -> None:
    """For every candidate the mean weight, 8 bits included, is its probability: z-tests at 4.5."""
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(24, generator=generator)
    codec = RankCodec(vocabulary=24, entries=6, choose="sample", log_probs=True)
    drawn = candidates_of(logits.expand(60_000, 24), codec, generator=generator)
    order = logits[drawn.ids]
    assert bool((order[:, :-1] >= order[:, 1:]).all())
    found = codec.decode(codec.encode(drawn, generator=generator))
    assert found.log_weights is not None
    weights = torch.zeros(60_000, 24).scatter(1, found.ids, found.log_weights.exp()).double()
    error = weights.std(0) / 60_000**0.5
    assert float(((weights.mean(0) - logits.double().softmax(-1)) / error).abs().max()) < 4.5


@given(st.integers(2, 60), st.integers(2, 60), st.floats(0, 300), st.integers(0, 1 << 30))
def test_a_sample_has_each_candidate_once_and_the_likeliest_for_certain(
    vocabulary: int, entries: int, spread: float, seed: int
) -> None:
    """Its weights are max(p, tau), the tau of Fearnhead and Clifford by bisection, and add up to 1."""
    entries = min(entries, vocabulary)
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(1, vocabulary, generator=generator).round(decimals=1)  # with ties
    codec = RankCodec(vocabulary=vocabulary, entries=entries, choose="sample", log_probs=True)
    drawn = candidates_of(logits, codec, generator=generator)
    assert drawn.log_weights is not None
    (ids,), (weights,) = drawn.ids.tolist(), drawn.log_weights.double().exp()
    assert len(set(ids)) == entries
    p = logits[0].double().softmax(-1)
    low, high = 0.0, 1.0
    for _ in range(200 if entries < vocabulary else 0):
        tau = (low + high) / 2
        low, high = (tau, high) if float((p / tau).clamp_max(1).sum()) > entries else (low, tau)
    torch.testing.assert_close(weights, p[ids].clamp_min(low), rtol=1e-4, atol=1e-12)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert set((p > high * 1.001).nonzero()[:, 0].tolist()) <= set(ids)


def test_a_sample_of_steady_size_is_nearer_than_independent_draws() -> None:
    """The squared error of the weights is what the formula says: the sum of p (tau - p) over the uncertain ones."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40, generator=generator)
    codec = RankCodec(vocabulary=40, entries=8, choose="sample", log_probs=True)
    drawn = candidates_of(logits.expand(20_000, 40), codec, generator=generator)
    assert drawn.log_weights is not None
    p = logits.double().softmax(-1)
    tau = float(drawn.log_weights.double().exp().min())
    errors = torch.zeros(20_000, 40, dtype=torch.float64).scatter(1, drawn.ids, drawn.log_weights.double().exp()) - p
    found, wanted = errors.square().sum(-1), float((p * (tau - p)).clamp_min(0).sum())
    assert abs(float(found.mean()) - wanted) < 4.5 * float(found.std()) / 20_000**0.5
    with_replacement = float((p * (1 - p)).sum()) / 8
    assert wanted < with_replacement / 2


def test_a_sample_of_all_candidates_is_the_distribution() -> None:
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    drawn = candidates_of(logits, RankCodec(vocabulary=6, entries=6, choose="sample", log_probs=True))
    assert drawn.log_weights is not None
    torch.testing.assert_close(drawn.log_weights, logits.log_softmax(-1).gather(-1, drawn.ids))


def made(folder: Path, teacher: Any, **options: Any) -> RankCache:
    codec = RankCodec(vocabulary=40, entries=5, **{"log_probs": True, **options})
    cache = RankCache.begun(folder, codec, ORIGIN)
    fill(cache, teacher, GROUPS, batch_size=2)
    cache.finish()
    return RankCache(folder)


def test_a_killed_build_goes_on(tmp_path: Path, teacher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the second shard's texts were written, its records not: the same records as of a build at once."""
    monkeypatch.setattr(rank_build, "_RESPONSES_PER_SHARD", 3)
    whole = made(tmp_path / "whole", teacher, choose="sample")
    calls: list[Any] = []

    class Killed(Exception):
        pass

    original = rank_build._records

    def dies(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(rank_build, "_records", dies)
    with pytest.raises(Killed):
        made(tmp_path / "killed", teacher, choose="sample")
    with pytest.raises(UserError, match="the cache is not complete; give its `grkd cache build` again"):
        RankCache(tmp_path / "killed")
    monkeypatch.setattr(rank_build, "_records", original)
    again = made(tmp_path / "killed", teacher, choose="sample")
    assert list(again.records) == list(whole.records)
    assert all(torch.equal(again.records[key], whole.records[key]) for key in whole.records)
    assert [group.items for group in again.groups("train")] == [group.items for group in GROUPS]
    assert list(again.problems()) == []


def test_a_killed_build_goes_on_in_its_own_order_alone(
    tmp_path: Path, teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of data in another order a shard would be written over, and what it held were lost."""
    monkeypatch.setattr(rank_build, "_RESPONSES_PER_SHARD", 3)
    cache = RankCache.begun(tmp_path, RankCodec(vocabulary=40, entries=5), ORIGIN)
    fill(cache, teacher, GROUPS[:1], batch_size=2)
    with pytest.raises(UserError, match=r"ranks-000000.safetensors: it holds other items .*; delete it and give"):
        fill(cache, teacher, GROUPS[::-1], batch_size=2)
    assert list(RankCache(tmp_path, writing=True).records) == [content_key(item) for item in GROUPS[0].items]


def test_a_response_is_found_by_its_content(tmp_path: Path, teacher: Any) -> None:
    cache = made(tmp_path, teacher)
    item = ITEMS[4]
    with torch.no_grad():
        scores = response_logits(teacher, collate([item], pad_token_id=0))[0]
    expected = candidates_of(scores, cache.codec)
    found = cache.codec.decode(cache[replace(item, id="another name")])
    assert torch.equal(found.ids, expected.ids)
    assert replace(item, response_ids=[9]) not in cache
    assert [group.items for group in cache.groups("train")] == [group.items for group in GROUPS]
    assert cache.groups("heldout") == []


def test_mistakes_are_one_line(tmp_path: Path, teacher: Any) -> None:
    cache = made(tmp_path / "cache", teacher)
    with pytest.raises(UserError, match=r"made with weights 'w', now it is 'x'; delete it"):
        RankCache.begun(cache.folder, cache.codec, replace(ORIGIN, weights="x"))
    with pytest.raises(UserError, match="made with entries 5, now it is 6"):
        RankCache.begun(cache.folder, replace(cache.codec, entries=6), ORIGIN)
    with pytest.raises(UserError, match=r"no cache\.json in it"):
        RankCache(tmp_path)
    header = read_json(cache.folder / HEADER)
    for changed, message in (
        ({"version": 3}, "newer than 2; update grkd"),
        (
            {"version": 1, "codec": {**header["codec"], "choose": "sample"}},
            "stored in another way in version 1 .*; delete it",
        ),
        ({"format": "x"}, "describes no cache"),
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        write_json(tmp_path / "other" / HEADER, {**header, **changed})
        with pytest.raises(UserError, match=message):
            RankCache(tmp_path / "other")
    path = next(cache.folder.glob("ranks-*"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert list(RankCache(cache.folder).problems()) == [f"{path.name} (altered)"]
    with pytest.raises(UserError, match="entries must be between 2 and the 40 candidates"):
        RankCodec(vocabulary=40, entries=41)
