"""Tokens against the documented distribution and the generator's published answers; rows do not know of each other.

With GRKD_KERNELS=triton (and TRITON_INTERPRET=1) the Triton kernels run: see test_interpreter.py.
"""

import os
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from grkd.errors import UserError
from grkd.kernels import draw_tokens as public
from grkd.kernels.draw_tokens import gumbel_noise, kept_scores, philox

TRITON = os.environ.get("GRKD_KERNELS") == "triton"
DRAWS = 8000
slow_interpreted = pytest.mark.skipif(TRITON, reason="the interpreter is slow; both forms draw the same")


def draw_tokens(logits: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
    return public(logits, *rest, **options, implementation="triton" if TRITON else "auto")


def scores(rows: int = 1, vocabulary: int = 23) -> Tensor:
    return 2 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(vocabulary))


def many(row: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Independent draws from one row of logits."""
    seeds = torch.arange(DRAWS) * 7919 + (1 << 40)
    return draw_tokens(row.expand(DRAWS, -1), seeds, torch.full((DRAWS,), 3), **options)


def documented(row: Tensor, *, temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, **more: Any) -> np.ndarray:
    """The probabilities of the docstring in float64, token by token."""
    x = row[: more.get("vocabulary")].double()
    cap = more.get("softcap")
    x = x if cap is None else cap * torch.tanh(x / cap)
    p = (x / temperature).softmax(-1)
    order = p.argsort(descending=True).tolist()[: top_k or None]
    total, kept, mass = sum(float(p[token]) for token in order), [], 0.0
    for token in order:
        kept.append(token)
        mass += float(p[token]) / total
        if mass >= top_p:
            break
    found = torch.zeros_like(p)
    found[kept] = p[kept] / p[kept].sum()
    return found.numpy()


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ([0, 0, 0, 0], 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, -1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0A4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_published_answers_of_the_generator(counter: list[int], key: int, answer: str) -> None:
    """The known answers that come with Random123, the generator's own implementation."""
    words = philox([torch.tensor([word]) for word in counter], torch.tensor([key]))
    assert " ".join(f"{int(word):08x}" for word in words) == answer


def test_noise_is_gumbel() -> None:
    noise = gumbel_noise(torch.arange(40) * 977, torch.arange(40), 1003).flatten().double().numpy()
    assert stats.kstest(noise, stats.gumbel_r.cdf).pvalue > 0.01
    other = gumbel_noise(torch.arange(40) * 977, torch.arange(40) + 1, 1003).flatten().double().numpy()
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02


@slow_interpreted
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 2.5},
        {"top_p": 0.7},
        {"top_k": 4},
        {"top_k": 6, "top_p": 0.8, "temperature": 1.5},
        {"softcap": 2.0, "vocabulary": 19},
    ],
)
def test_tokens_follow_the_documented_distribution(options: dict[str, Any]) -> None:
    row = scores()[0]
    expected = documented(row, **options)
    tokens, log_probs = many(row, **options)
    assert set(tokens.tolist()) <= set(np.flatnonzero(expected).tolist())
    observed = np.bincount(tokens.numpy(), minlength=len(expected))
    often = expected * DRAWS >= 5
    table = [np.append(part[often], part[~often].sum()) for part in (observed, expected * DRAWS)]
    shown = table[1] > 0
    assert stats.chisquare(table[0][shown], table[1][shown]).pvalue > 0.01
    np.testing.assert_allclose(log_probs.numpy(), np.log(expected[tokens.numpy()]), atol=3e-6)


def test_greedy_takes_the_first_of_the_most_likely() -> None:
    logits = scores(5, 40).round()
    tokens, log_probs = draw_tokens(logits, torch.arange(5), torch.zeros(5).long(), temperature=0.0, top_p=0.1)
    expected = [row.index(max(row)) for row in logits.tolist()]
    assert tokens.tolist() == expected
    every = logits.double().log_softmax(-1)
    torch.testing.assert_close(log_probs.double(), every[torch.arange(5), tokens], rtol=0, atol=3e-6)


@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_k": 5}])
def test_a_row_draws_the_same_token_in_every_batch(options: dict[str, Any]) -> None:
    rows = 3 if TRITON else 12
    logits = scores(rows, 50)
    seeds, places = torch.arange(rows) - (1 << 62), torch.arange(rows)
    tokens, log_probs = draw_tokens(logits, seeds, places, **options)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    shuffled = draw_tokens(logits[order], seeds[order], places[order], **options)
    assert torch.equal(shuffled[0], tokens[order])
    for row in (0, rows - 1):
        alone = draw_tokens(logits[row : row + 1], seeds[row : row + 1], places[row : row + 1], **options)
        assert alone[0].item() == tokens[row]
        torch.testing.assert_close(alone[1][0], log_probs[row])


@slow_interpreted
def test_seed_and_place_both_matter() -> None:
    logits = torch.zeros(1, 100_000)
    found = {
        draw_tokens(logits, torch.tensor([seed]), torch.tensor([place]))[0].item()
        for seed in (0, 1, 1 << 32, -1)
        for place in (0, 1, 2)
    }
    assert len(found) == 12


@pytest.mark.skipif(not TRITON, reason="run by test_interpreter.py")
def test_both_forms_draw_the_same() -> None:
    """Also where scores are absent, tied, or far apart; the vocabulary needs several blocks."""
    logits = scores(5, 4100)
    logits[1] = logits[1].round()
    logits[2, 100:] = -1e30
    logits[3] *= 1e3
    logits[4] = 0
    seeds, places = torch.arange(5) << 33, torch.arange(5)
    for options in ({}, {"temperature": 0.5, "top_p": 0.9}, {"top_k": 70, "top_p": 0.6}):
        ours = draw_tokens(logits, seeds, places, **options)
        plain = public(logits, seeds, places, **options, implementation="torch")
        assert torch.equal(ours[0], plain[0])
        torch.testing.assert_close(ours[1], plain[1], rtol=1e-5, atol=1e-5)


def test_tied_entries_are_kept_together() -> None:
    kept = kept_scores(torch.tensor([[3.0, 1.0, 1.0, 0.0]]), top_p=1.0, top_k=2)
    assert kept.isfinite().tolist() == [[True, True, True, False]]
    kept = kept_scores(torch.tensor([[1.0, 1.0, 1.0, -9.0]]), top_p=0.3, top_k=0)
    assert kept.isfinite().tolist() == [[True, True, True, False]]


@pytest.mark.parametrize(
    "option", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}, {"softcap": 0.0}]
)
def test_options_out_of_range_are_named(option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(option))):
        many(scores()[0], **option)


def test_a_vocabulary_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="23 logits"):
        many(scores()[0], vocabulary=24)
