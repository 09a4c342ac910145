"""Groups: pairs and ties against plain loops, top and sampled candidates, masks."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from torch import Tensor

from grkd import groups
from grkd.errors import UserError


@st.composite
def scores_and_mask(draw: st.DrawFn) -> tuple[list[list[float]], list[list[bool]]]:
    """A few rows of scores on a coarse grid, so that ties are common, and any mask."""
    rows, candidates = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    grid = st.integers(-3, 3).map(lambda step: step / 2)
    scores = [[draw(grid) for _ in range(candidates)] for _ in range(rows)]
    mask = [[draw(st.booleans()) for _ in range(candidates)] for _ in range(rows)]
    return scores, mask


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(scores_and_mask())
def test_pairs_are_those_of_plain_loops(case: tuple[list[list[float]], list[list[bool]]]) -> None:
    scores, mask = case
    found = groups.pairs(torch.tensor(scores), mask=torch.tensor(mask))
    found_rows = groups.has_pair(torch.tensor(scores), mask=torch.tensor(mask))
    for row, (values, exists) in enumerate(zip(scores, mask, strict=True)):
        expected = {
            (i, j)
            for i in range(len(values))
            for j in range(len(values))
            if exists[i] and exists[j] and values[i] > values[j]
        }
        assert {tuple(pair) for pair in found[row].nonzero().tolist()} == expected
        assert bool(found_rows[row]) == bool(expected)


def test_pairs_take_leading_axes() -> None:
    scores = torch.randn(2, 3, 5, generator=seeded(0))
    found = groups.pairs(scores)
    assert found.shape == (2, 3, 5, 5)
    assert torch.equal(found[1, 2], groups.pairs(scores[1, 2]))


def test_nan_where_masked_makes_no_pair() -> None:
    scores = torch.tensor([[1.0, math.nan, 0.0, math.inf]])
    mask = torch.tensor([[True, False, True, False]])
    assert groups.pairs(scores, mask=mask).nonzero().tolist() == [[0, 0, 2]]
    assert groups.has_pair(scores, mask=mask).tolist() == [True]


def test_differences_that_bf16_loses_are_kept_in_float32() -> None:
    scores = torch.tensor([[10.01, 10.0]])
    assert scores.bfloat16()[0, 0] == scores.bfloat16()[0, 1], "the example must tie in bf16"
    assert groups.has_pair(scores).item()
    assert not groups.has_pair(scores.bfloat16()).item()


def test_float64_stays_float64() -> None:
    scores = torch.tensor([[1.0 + 1e-12, 1.0]], dtype=torch.float64)
    assert groups.wide(scores).dtype == torch.float64
    assert groups.has_pair(scores).item()


def test_top_is_best_first() -> None:
    group = groups.top(torch.tensor([[0.5, 3.0, -1.0, 2.0], [4.0, 1.0, 2.0, 3.0]]), 3)
    assert group.indices.tolist() == [[1, 3, 0], [0, 3, 2]]
    assert group.mask.all()


def test_top_of_a_row_with_too_few_candidates_is_masked() -> None:
    scores = torch.tensor([[0.5, math.nan, -1.0, 2.0]])
    group = groups.top(scores, 3, mask=torch.tensor([[True, False, False, True]]))
    assert group.indices[0, :2].tolist() == [3, 0]
    assert group.mask.tolist() == [[True, True, False]]


def plackett_luce(scores: list[float], size: int, temperature: float) -> dict[tuple[int, ...], float]:
    """Probability of each ordered draw of `size` candidates without replacement, by enumeration."""
    weights = [math.exp(score / temperature) for score in scores]
    found = {}
    for order in itertools.permutations(range(len(scores)), size):
        left, probability = sum(weights), 1.0
        for index in order:
            probability *= weights[index] / left
            left -= weights[index]
        found[order] = probability
    return found


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("size", [2, 3])
def test_sample_frequencies_are_plackett_luce(size: int, temperature: float) -> None:
    scores, draws = [1.0, 0.0, -0.5, 2.0], 20_000
    group = groups.sample(torch.tensor([scores]).expand(draws, 4), size, temperature=temperature, generator=seeded(1))
    expected = plackett_luce(scores, size, temperature)
    assert sum(expected.values()) == pytest.approx(1.0)

    orders = Counter(tuple(row) for row in group.indices.tolist())
    distance = sum((orders[order] - draws * p) ** 2 / (draws * p) for order, p in expected.items())
    assert distance < chi2.ppf(0.9999, len(expected) - 1)

    for candidate in range(4):
        inclusion = sum(p for order, p in expected.items() if candidate in order)
        share = (group.indices == candidate).any(-1).double().mean().item()
        assert abs(share - inclusion) < 4 * math.sqrt(inclusion * (1 - inclusion) / draws)


def test_sample_repeats_with_the_seed_and_only_with_it() -> None:
    scores = torch.randn(8, 50, generator=seeded(0))
    first = groups.sample(scores, 5, generator=seeded(3)).indices
    assert torch.equal(first, groups.sample(scores, 5, generator=seeded(3)).indices)
    assert not torch.equal(first, groups.sample(scores, 5, generator=seeded(4)).indices)


def test_a_row_draws_by_its_own_seed_wherever_it_stands() -> None:
    scores = torch.randn(12, 300, generator=seeded(0))
    seeds = torch.arange(12) * 10_007
    whole = groups.sample(scores, 7, seeds=seeds).indices
    parts = [groups.sample(scores[at : at + 5], 7, seeds=seeds[at : at + 5]).indices for at in range(0, 12, 5)]
    assert torch.equal(whole, torch.cat(parts))
    order = torch.randperm(12, generator=seeded(1))
    assert torch.equal(groups.sample(scores[order], 7, seeds=seeds[order]).indices, whole[order])
    square = groups.sample(scores.reshape(3, 4, 300), 7, seeds=seeds.reshape(3, 4)).indices
    assert torch.equal(square, whole.reshape(3, 4, 7))
    assert len({tuple(row) for row in groups.sample(scores[:1].expand(50, -1), 7, seeds=torch.arange(50)).indices}) > 1
    with pytest.raises(ValueError, match="seeds have shape"):
        groups.sample(scores, 7, seeds=seeds[:3])


def test_draws_far_below_the_top_keep_their_proportions() -> None:
    """Behind a candidate of nearly all the mass, the second draw is by what is left, however little that is."""
    scores = torch.tensor([[100.0, 1.0, 0.0] + [-60.0] * 30]).expand(20_000, -1)
    drawn = groups.sample(scores, 2, seeds=torch.arange(20_000)).indices
    assert (drawn[:, 0] == 0).all()
    share = (drawn[:, 1] == 1).double().mean().item()
    expected = 1 / (1 + math.exp(-1))
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 20_000)


@pytest.mark.parametrize("candidates", [129, 4500])
def test_sample_frequencies_over_many_candidates(candidates: int) -> None:
    """The first draw over blocks of candidates: chi-squared against the softmax."""
    draws = 6_000
    scores = torch.sin(torch.arange(candidates) * 1.7).expand(draws, -1)
    seeds = torch.arange(draws)
    first = torch.cat([groups.sample(scores[:2000], 2, seeds=part).indices[:, 0] for part in seeds.split(2000)])
    expected = scores[0].softmax(-1)
    bins = torch.arange(candidates) * 64 // candidates
    counted = torch.bincount(bins[first], minlength=64).double()
    wanted = torch.zeros(64, dtype=torch.double).index_add_(0, bins, expected.double()) * draws
    assert ((counted - wanted) ** 2 / wanted).sum().item() < chi2.ppf(0.9999, 63)


@given(st.integers(0, 10_000), st.integers(2, 9))
def test_sample_is_without_replacement(seed: int, size: int) -> None:
    scores = torch.randn(4, 9, generator=seeded(seed)) * 5
    indices = groups.sample(scores, size, generator=seeded(seed)).indices
    assert all(len(set(row)) == size for row in indices.tolist())


@given(st.integers(0, 10_000), st.integers(2, 8))
def test_masked_candidates_are_drawn_only_when_no_other_remains(seed: int, size: int) -> None:
    scores = torch.randn(4, 8, generator=seeded(seed)) * 3
    mask = torch.rand(4, 8, generator=seeded(seed + 1)) < 0.6
    group = groups.sample(scores.masked_fill(~mask, 1e4), size, mask=mask, generator=seeded(seed))
    chosen = mask.gather(-1, group.indices)
    assert torch.equal(chosen, group.mask)
    assert chosen.sum(-1).tolist() == [min(size, int(row.sum())) for row in mask]


def test_sample_of_bf16_scores_adds_its_noise_in_float32() -> None:
    scores = torch.randn(4, 200, generator=seeded(0)).bfloat16()
    in_bf16 = groups.sample(scores, 20, generator=seeded(1)).indices
    assert torch.equal(in_bf16, groups.sample(scores.float(), 20, generator=seeded(1)).indices)


def test_a_low_temperature_draws_the_top() -> None:
    scores = torch.randn(6, 10, generator=seeded(0))
    cold = groups.sample(scores, 4, temperature=1e-6, generator=seeded(1)).indices
    assert torch.equal(cold, groups.top(scores, 4).indices)


def test_choose_by_name() -> None:
    scores = torch.randn(2, 6, generator=seeded(0))
    assert groups.choose(scores, "all") is None
    top = groups.choose(scores, "top", size=3)
    assert top is not None
    assert torch.equal(top.indices, groups.top(scores, 3).indices)
    drawn = groups.choose(scores, "sample", size=3, temperature=2.0, generator=seeded(5))
    assert drawn is not None
    assert torch.equal(drawn.indices, groups.sample(scores, 3, temperature=2.0, generator=seeded(5)).indices)


@pytest.mark.parametrize("draw", [groups.top, groups.sample])
@pytest.mark.parametrize("size", [-1, 0, 1, 5])
def test_a_size_that_does_not_fit_is_a_user_error(draw: Callable[..., groups.Group], size: int) -> None:
    with pytest.raises(UserError, match=f"between 2 and the 4 candidates, got {size}"):
        draw(torch.zeros(3, 4), size)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_above_0_is_a_user_error(temperature: float) -> None:
    with pytest.raises(UserError, match="temperature"):
        groups.sample(torch.zeros(3, 4), 2, temperature=temperature)


def test_choose_without_a_size_is_a_user_error() -> None:
    with pytest.raises(UserError, match="group_size"):
        groups.choose(torch.zeros(3, 4), "top")


def test_choose_with_an_unknown_name_is_refused() -> None:
    with pytest.raises((UserError, TypeError), match="best"):
        groups.choose(torch.zeros(3, 4), "best", size=2)  # type: ignore[arg-type]


USES: dict[str, Callable[[Tensor, Any], object]] = {
    "pairs": lambda scores, mask: groups.pairs(scores, mask=mask),
    "has_pair": lambda scores, mask: groups.has_pair(scores, mask=mask),
    "top": lambda scores, mask: groups.top(scores, 2, mask=mask),
    "sample": lambda scores, mask: groups.sample(scores, 2, mask=mask),
    "choose": lambda scores, mask: groups.choose(scores, "top", size=2, mask=mask),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("shape", [(4,), (1, 4), (3, 1), (3,), (3, 4, 1), (1, 3, 4)])
def test_a_mask_never_broadcasts(use: Callable[[Tensor, Any], object], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="mask has shape"):
        use(torch.zeros(3, 4), torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_float_mask_is_refused(use: Callable[[Tensor, Any], object]) -> None:
    with pytest.raises(ValueError, match="mask must be bool"):
        use(torch.zeros(3, 4), torch.zeros(3, 4))


def test_an_integer_mask_counts_as_bool() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    assert groups.pairs(scores, mask=torch.tensor([[1, 0, 1]])).nonzero().tolist() == [[0, 0, 2]]


def test_a_sample_never_holds_candidates_of_probability_zero() -> None:
    scores = torch.full((200, 300), -torch.inf)
    scores[:, [3, 50, 290]] = torch.tensor([0.0, 1.0, 2.0])
    found = groups.sample(scores, 3, seeds=torch.arange(200)).indices
    assert (found.sort(-1).values == torch.tensor([3, 50, 290])).all()
    assert (found[:, 0] == 290).float().mean() > 0.5  # e^2 of e^2 + e + 1: 0.67
