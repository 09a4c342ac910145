"""GRKD over responses: which terms each level asks for, their weights and formulas, and the head's part."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from grkd import GRKDLoss, losses, objectives
from grkd.errors import UserError
from grkd.objectives import Batch, Level


def responses(progress: float = 0.3) -> Batch:
    """Three prompts with up to four responses: mean token log-probabilities and the teacher's rewards."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (-torch.rand(3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.tensor([[True, True, True, True], [True, True, True, False], [True, False, False, False]])
    return Batch(student=student, teacher=teacher, mask=mask, progress=progress, level="response")


def tokens(progress: float = 0.3) -> Batch:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(5, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return Batch(student=student, teacher=teacher, labels=torch.arange(5), progress=progress)


def terms_of(batch: Batch, **options: Any) -> dict[str, tuple[float, Tensor]]:
    terms = objectives.load("grkd", **options).terms(batch)
    return {term.name: (term.weight, torch.where(term.counted, term.rows, math.nan)) for term in terms}


PAIRS, SOFT = "response_group_relative", "response_soft_target"


@pytest.mark.parametrize(
    ("options", "at_rows", "at_responses"),
    [
        ({}, {"group_relative", "soft_target"}, set()),
        ({"label_weight": 1.0}, {"group_relative", "soft_target", "labels"}, set()),
        ({"level": "response"}, {"soft_target"}, {PAIRS}),
        ({"level": "response", "label_weight": 1.0}, {"soft_target", "labels"}, {PAIRS}),
        ({"level": "response", "response_soft": "responses"}, set(), {PAIRS, SOFT}),
        ({"level": "response", "response_soft": "responses", "label_weight": 1.0}, {"labels"}, {PAIRS, SOFT}),
        ({"level": "both"}, {"group_relative", "soft_target"}, {PAIRS}),
        ({"level": "both", "response_soft": "responses"}, {"group_relative", "soft_target"}, {PAIRS, SOFT}),
        ({"level": "both", "token_weight": 0.0}, set(), {PAIRS}),
        ({"level": "both", "response_weight": 0.0}, {"group_relative", "soft_target"}, set()),
        ({"level": "response", "soft_scale": 0.0}, set(), {PAIRS}),
        ({"level": "response", "alpha_shape": "constant"}, set(), {PAIRS}),
        ({"alpha_ceiling": 0.0}, {"soft_target"}, set()),
        ({"alpha_shape": "constant"}, {"group_relative"}, set()),
        ({"pair_scale": 0.0}, {"soft_target"}, set()),
    ],
    ids=lambda value: ",".join(sorted(map(str, value))),  # the order of a set differs between processes
)
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_levels_and_terms(options: dict[str, Any], at_rows: set[str], at_responses: set[str], progress: float) -> None:
    objective = objectives.load("grkd", **options)
    expected: dict[Level, set[str]] = {"row": at_rows, "response": at_responses}
    assert objective.levels == tuple(level for level in ("row", "response") if expected[level])
    # The same terms at every point of training, so that logs and ranks agree; alpha may make a weight 0.
    assert set(terms_of(tokens(progress), **options)) == at_rows
    assert set(terms_of(responses(progress), **options)) == at_responses


def pairs_by_hand(s: list[float], t: list[float], tau: float) -> float:
    margins = [(s[i] - s[j]) / tau for i in range(len(s)) for j in range(len(s)) if t[i] > t[j]]
    return sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)


def soft_by_hand(s: list[float], t: list[float], scale: float) -> float:
    p = [math.exp(value * scale) for value in t]
    q = [math.exp(value * scale) for value in s]
    return -sum(a / sum(p) * math.log(b / sum(q)) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("squared", [False, True])
def test_terms_over_responses_by_hand(squared: bool) -> None:
    batch = responses()
    assert batch.teacher is not None
    assert batch.mask is not None
    options = {"response_soft": "responses", "temperature": 2.0, "t_squared": True, "response_tau": 0.2}
    weights = {"pair_scale": 3.0, "soft_scale": 0.5, "response_weight": 0.7, "token_weight": 9.0, "alpha_ceiling": 0.8}
    # group_size is for tokens: all responses are ranked, one has nothing to be ranked with.
    found = terms_of(
        batch, level="response", **options, **weights, tau=7.0, tau_squared=squared, group="top", group_size=2
    )
    alpha = 0.8 * 0.3
    assert found[PAIRS][0] == pytest.approx(0.7 * 3 * alpha * (0.04 if squared else 1))
    assert found[SOFT][0] == pytest.approx(0.7 * 0.5 * (1 - alpha))
    for row, exists in enumerate(batch.mask):
        s, t = batch.student[row, exists].tolist(), batch.teacher[row, exists].tolist()
        if len(s) > 1:
            assert found[PAIRS][1][row].item() == pytest.approx(pairs_by_hand(s, t, 0.2), rel=1e-12)
        # t_squared of temperature 2; both sides are divided by response_tau * T.
        assert found[SOFT][1][row].item() == pytest.approx(4 * soft_by_hand(s, t, 1 / (0.2 * 2)), rel=1e-12)
    assert found[PAIRS][1][2].isnan(), "a lone response has no pair and does not count"


def test_level_both_is_the_token_level_and_the_response_level() -> None:
    weights = {"token_weight": 0.5, "response_weight": 2.0}
    both = terms_of(tokens(), level="both", **weights) | terms_of(responses(), level="both", **weights)
    of_tokens, of_responses = terms_of(tokens()), terms_of(responses(), level="response")
    assert set(both) == set(of_tokens) | set(of_responses)
    for name, (weight, rows) in (of_tokens | of_responses).items():
        assert both[name][0] == pytest.approx(weight * (2.0 if name == PAIRS else 0.5))
        torch.testing.assert_close(both[name][1], rows, equal_nan=True)


def test_level_response_takes_soft_targets_from_tokens() -> None:
    batch = tokens()
    assert batch.teacher is not None
    weight, rows = terms_of(batch, level="response", temperature=2.0)["soft_target"]
    assert weight == pytest.approx(0.7)
    torch.testing.assert_close(rows, losses.soft_target(batch.student, batch.teacher, temperature=2.0))


@pytest.mark.parametrize(
    ("options", "pair_scale", "soft_scale"),
    [
        ({"pair_scale": 3.0, "soft_scale": 2.0}, 3.0, 2.0),
        ({"pair_scale": 3.0, "tau": 2.0, "tau_squared": True, "token_weight": 0.5}, 6.0, 0.5),
        ({"level": "response"}, 0.0, 1.0),
        ({"level": "both", "token_weight": 0.5}, 0.5, 0.5),
        ({"alpha_ceiling": 0.0}, 1.0, 1.0),
    ],
    ids=str,
)
def test_the_head_gets_the_part_over_tokens(options: dict[str, Any], pair_scale: float, soft_scale: float) -> None:
    found = objectives.load("grkd", **options).head_options(0.3)
    assert found is not None
    assert (found["pair_scale"], found["soft_scale"]) == pytest.approx((pair_scale, soft_scale))
    weights = {name: weight for name, (weight, _) in terms_of(tokens(), **options).items()}
    assert found["alpha"] * found["pair_scale"] == pytest.approx(weights.get("group_relative", 0.0))
    assert (1 - found["alpha"]) * found["soft_scale"] == pytest.approx(weights["soft_target"])


def test_the_head_is_refused_where_it_cannot() -> None:
    for options in ({"label_weight": 0.5}, {"level": "response", "response_soft": "responses"}):
        assert objectives.load("grkd", **options).head_options(0.3) is None


def test_a_group_of_tokens_is_checked_only_where_tokens_make_pairs() -> None:
    objectives.load("grkd", level="response", group="top", group_size=7).check_candidates(6)
    with pytest.raises(UserError, match="group_size 7"):
        objectives.load("grkd", level="both", group="top", group_size=7).check_candidates(6)


@pytest.mark.parametrize(
    "options",
    [
        {"pair_scale": 0.0, "soft_scale": 0.0},
        {"token_weight": 0.0},
        {"alpha_ceiling": 0.0, "soft_scale": 0.0},
        {"level": "both", "token_weight": 0.0, "response_weight": 0.0},
    ],
    ids=str,
)
def test_weights_that_leave_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="leave no term"):
        objectives.load("grkd", **options)


def test_the_module_is_for_logits() -> None:
    with pytest.raises(UserError, match="level must be 'token'"):
        GRKDLoss(level="both")


def test_response_options_out_of_range_are_refused() -> None:
    for option, value in {"response_tau": 0.0, "response_weight": -1.0, "token_weight": -1.0}.items():
        with pytest.raises(UserError, match=f"^grkd: {option}"):
            objectives.load("grkd", **{option: value})


@pytest.mark.parametrize("level", ["response", "both"])
def test_new_responses_are_ranked_by_nobody(level: str) -> None:
    with pytest.raises(UserError, match="on_policy_fraction needs level: token"):
        objectives.load("grkd", level=level, on_policy_fraction=0.5)
    assert objectives.load("grkd", on_policy_fraction=0.5).on_policy == 0.5
    assert objectives.load("grkd").on_policy == 0.0
