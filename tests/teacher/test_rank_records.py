"""Records of a cache of ranks and what they hold: they come back, a sample's weights are right on average."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grkd.teacher.rank_codec import RankCodec, joined
from grkd.teacher.rank_draws import candidates_of, fitting_share, likeliest_masses
from grkd.teacher.token_candidates import Candidates


def test_the_bytes_per_token() -> None:
    """16 candidates of 262,144: 16 x 18 bits and 15 of ties; a byte each and one of the tail.

    A sample of 16 on average: n x 19 bits, a byte per certain entry, one each for n and their number. At most n - 1 are
    certain, so the mean is at most 2 + 16 x 19 / 8 + 7 / 8 + 15 = 55.9 bytes.
    """
    for choose in ("top", "sample"):
        assert RankCodec(vocabulary=262_144, choose=choose).record_bytes == 38 <= 40
    assert RankCodec(vocabulary=262_144, log_probs=True).record_bytes == 55 <= 56
    generator = torch.Generator().manual_seed(0)
    logits = 8 * torch.rand(300, 1, generator=generator) * torch.randn(300, 400, generator=generator)
    codec = RankCodec(vocabulary=262_144, choose="sample", log_probs=True, share=1.0)
    share = fitting_share(likeliest_masses(logits, number=64, temperature=1.0), entries=16)
    drawn = candidates_of(logits, replace(codec, share=share), generator=generator)
    assert drawn.counts is not None
    assert drawn.certain is not None
    counts, certain = drawn.counts, drawn.certain
    assert float(counts.double().mean()) == pytest.approx(16, abs=0.1)
    assert int(counts.min()) == 2 < 25 < int(counts.max()) <= 64
    stored = codec.pack(codec.encode(drawn))
    assert len(stored) == 4 + int((2 + (counts * 19 + 7) // 8 + certain).sum())
    assert len(stored) / 300 <= 56
    with pytest.raises(ValueError, match=f"records of {len(stored) - 1} bytes, expected {len(stored)}"):
        codec.unpack(stored[:-1])


@given(st.integers(2, 1 << 20), st.integers(2, 20), st.integers(0, 1 << 30))
def test_records_of_the_top_come_back(vocabulary: int, entries: int, seed: int) -> None:
    """Ids and ties as they were, log-probabilities to within half a step."""
    entries = min(entries, vocabulary)
    draws = np.random.default_rng(seed)
    rows = [draws.choice(vocabulary, entries, replace=False) for _ in range(5)]
    logs = torch.tensor(-draws.exponential(4.0, (5, entries)), dtype=torch.float32).sort(descending=True).values
    logs = logs.clamp_min(-24)
    given = Candidates(
        ids=torch.tensor(np.stack(rows)), tied=torch.tensor(draws.random((5, entries - 1)) < 0.3),
        log_weights=logs, log_tail=logs[:, 0],
    )  # fmt: skip
    codec = RankCodec(vocabulary=vocabulary, entries=entries, log_probs=True)
    records = codec.encode(given)
    assert records.shape == (5, codec.record_bytes)
    found = codec.decode(codec.unpack(codec.pack(records)))
    assert torch.equal(found.ids, given.ids)
    assert torch.equal(found.tied, given.tied)
    assert found.log_weights is not None
    assert bool(((found.log_weights - logs).abs() <= 1.01 * step(logs) / 2 + 1e-3).all())
    for choose in ("top", "sample"):
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


def step(logs: torch.Tensor) -> torch.Tensor:
    """Nats between two codes at this depth."""
    return 2 * (-24.5 * logs).sqrt() / 255 + 24.5 / 255**2


@given(st.integers(3, 1 << 20), st.integers(2, 40), st.floats(0.002, 0.5), st.floats(0, 20), st.integers(0, 1 << 30))
def test_records_of_samples_come_back(vocabulary: int, entries: int, share: float, spread: float, seed: int) -> None:
    """As many entries as there were, by way of the shard and joined with a wider response.

    Ids, ties and numbers as they were; weights to one of the two codes around each, the uncertain ones alike; the best
    is what the others leave of 1.
    """
    generator = torch.Generator().manual_seed(seed)
    entries = min(entries, vocabulary - 1)
    codec = RankCodec(vocabulary=vocabulary, entries=entries, choose="sample", log_probs=True, share=share)
    logits = spread * torch.randn(6, min(vocabulary, 500), generator=generator).round(decimals=1)
    small = replace(codec, vocabulary=max(logits.shape[-1], entries + 1))
    if small.vocabulary > logits.shape[-1]:
        logits = torch.nn.functional.pad(logits, (0, small.vocabulary - logits.shape[-1]))
    given = candidates_of(logits, small, generator=generator)
    rows = codec.encode(given, generator=generator)
    parts = [codec.unpack(codec.pack(part)) for part in (rows[:2], rows[2:])]
    found = codec.decode(joined(parts))
    sizes = []
    for each in (given, found):
        assert each.counts is not None
        assert each.certain is not None
        assert each.log_weights is not None
        sizes.append(torch.stack([each.counts, each.certain], -1).tolist())
    assert sizes[0] == sizes[1]
    assert given.log_weights is not None
    assert found.log_weights is not None
    for at, (count, certain) in enumerate(sizes[0]):
        assert torch.equal(found.ids[at, :count], given.ids[at, :count])
        assert torch.equal(found.tied[at, : count - 1], given.tied[at, : count - 1])
        assert bool((found.ids[at, count:] == found.ids[at, 0]).all())
        assert bool((found.log_weights[at, count:] == -math.inf).all())
        own, wanted = found.log_weights[at, :count], given.log_weights[at, :count]
        assert float(own.exp().sum()) == pytest.approx(1, abs=1e-4)
        assert float(own[certain:].max() - own[certain:].min() if certain < count else 0) == 0
        first = 1 if certain else 0  # with a certain one the best is not coded
        coded = wanted[first:] > -22
        mass = wanted[certain:].logsumexp(-1, keepdim=True).clamp(-24, 0)
        wide = torch.cat([step(wanted[first:certain]), step(mass).expand(count - max(certain, first))])
        assert bool(((own[first:] - wanted[first:]).abs() <= 1.01 * wide + 1e-3)[coded].all())


@pytest.mark.parametrize(("spread", "share"), [(0.1, None), (3.0, None), (2.0, 0.12)])
def test_weights_of_a_sample_are_right_on_average(spread: float, share: float | None) -> None:
    """For every candidate the mean weight, 8 bits included, is its probability: z-tests at 4.5."""
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(24, generator=generator)
    codec = RankCodec(vocabulary=24, entries=6, choose="sample", log_probs=True, share=share)
    number = 60_000 if share is None else 20_000
    drawn = candidates_of(logits.expand(number, 24), codec, generator=generator)
    count = 6 if drawn.counts is None else int(drawn.counts[0])
    order = logits[drawn.ids[:, :count]]
    assert bool((order[:, :-1] >= order[:, 1:]).all())
    found = codec.decode(codec.encode(drawn, generator=generator))
    assert found.log_weights is not None
    weights = torch.zeros(number, 24).scatter_add(1, found.ids, found.log_weights.exp()).double()
    error = weights.std(0) / number**0.5
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


def test_each_token_has_the_fewest_entries_that_the_share_allows() -> None:
    """By the tau of one entry fewer; their noise is within 2 % of the least for as many entries, given one by one to
    the token that gains most, and below that of equal numbers."""
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.rand(64, 1, generator=generator) * torch.randn(64, 300, generator=generator)
    equal = RankCodec(vocabulary=300, entries=12, choose="sample", log_probs=True)
    share = fitting_share(likeliest_masses(logits, number=48, temperature=2.0), entries=12)
    codec = replace(equal, share=share)
    p = (logits / 2).double().softmax(-1)

    def taus(numbers: torch.Tensor) -> torch.Tensor:
        """By bisection: the sum of min(1, p / tau) is the number."""
        low, high = torch.zeros(64, 1).double(), torch.ones(64, 1).double()
        for _ in range(60):
            middle = (low + high) / 2
            above = (p / middle).clamp_max(1).sum(-1, keepdim=True) > numbers[:, None]
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return high

    counts = candidates_of(logits, codec, temperature=2.0, generator=generator).counts
    assert counts is not None
    assert abs(float(counts.double().mean()) - 12) <= 1 / 64 + 1e-6
    between = (counts > 2) & (counts < 48)
    assert int(between.sum()) > 30
    assert bool((taus(counts)[counts < 48] <= share * (1 + 1e-6)).all())
    assert bool((taus(counts - 1)[between] > share).all())
    sizes = [torch.full_like(counts, number) for number in range(2, 49)]
    noise = torch.stack([(p * (taus(each) - p)).clamp_min(0).sum(-1) for each in sizes], -1)
    gains = (noise[:, :-1] - noise[:, 1:]).flatten().sort(descending=True).values
    least = float(noise[:, 0].sum() - gains[: int((counts - 2).sum())].sum())
    chosen, equal_numbers = float(noise.gather(-1, counts[:, None] - 2).sum()), float(noise[:, 10].sum())
    assert least - 1e-9 <= chosen < 1.02 * least
    assert chosen < 0.97 * equal_numbers


def test_a_sample_of_all_candidates_is_the_distribution() -> None:
    logits = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    drawn = candidates_of(logits, RankCodec(vocabulary=6, entries=6, choose="sample", log_probs=True))
    assert drawn.log_weights is not None
    torch.testing.assert_close(drawn.log_weights, logits.log_softmax(-1).gather(-1, drawn.ids))
