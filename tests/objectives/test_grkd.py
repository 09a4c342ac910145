"""GRKD against its formula in plain Python, its levels, its word to the fused head, its options and refusals.

Over 300 lines: one class, and everything that it promises.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grkd import losses, objectives
from grkd.errors import UserError
from grkd.objectives import GRKD, Batch, Level, combine
from grkd.objectives.parts import Part
from grkd.objectives.parts.correlation import Correlation
from grkd.objectives.parts.pairs import Pairs
from grkd.objectives.parts.soft_target import SoftTarget
from tests.objectives.parts._scores import responses

RESPONSES = (Pairs(level="response", tau=0.1),)


def scores(rows: int = 5, candidates: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, candidates, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, (2 * teacher).round(decimals=0)


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("grkd", **options).terms(batch))


def by_hand(student: list[list[float]], teacher: list[list[float]], labels: list[int], progress: float) -> float:
    """L = a * 3 * L_GR + (1 - a) * 2 * L_soft + 0.25 * CE, a = 0.8 * progress, tau = 0.5, T = 2."""

    def log_probs(values: list[float], temperature: float) -> list[float]:
        normaliser = math.log(math.fsum(math.exp(value / temperature) for value in values))
        return [value / temperature - normaliser for value in values]

    relative, soft, labelled = [], [], []
    for s, t, label in zip(student, teacher, labels, strict=True):
        margins = [(s[i] - s[j]) / 0.5 for i in range(len(s)) for j in range(len(s)) if t[i] > t[j]]
        if margins:
            relative.append(sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins))
        p, q = log_probs(t, 2.0), log_probs(s, 2.0)
        soft.append(-sum(math.exp(a) * b for a, b in zip(p, q, strict=True)))
        if label >= 0:
            labelled.append(-log_probs(s, 1.0)[label])

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    alpha = 0.8 * progress
    return alpha * 3 * mean(relative) + (1 - alpha) * 2 * mean(soft) + 0.25 * mean(labelled)


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_equals_the_formula(progress: float) -> None:
    student, teacher = scores()
    teacher[2] = 1.0  # no pair: counts in the soft targets' mean, not in the pairs'
    labels = torch.tensor([0, 3, 5, -100, 2])
    batch = Batch(student=student, teacher=teacher, labels=labels, progress=progress)
    objective = GRKD(
        ranking=(Pairs(tau=0.5, weight=3.0),),
        anchor=(SoftTarget(temperature=2.0, weight=2.0),),
        alpha_ceiling=0.8,
        label_weight=0.25,
    )
    expected = by_hand(student.tolist(), teacher.tolist(), labels.tolist(), progress)
    assert combine(objective.terms(batch)).item() == pytest.approx(expected, rel=1e-12)


def test_defaults_are_the_papers() -> None:
    student, teacher = scores()
    start, end = (loss_of(Batch(student=student, teacher=teacher, progress=progress)) for progress in (0.0, 1.0))
    torch.testing.assert_close(start, losses.soft_target(student, teacher).mean())
    torch.testing.assert_close(end, losses.group_relative(student, teacher).mean())


def test_gradcheck() -> None:
    student, teacher = scores()
    options = {
        "pairs.target": "soft",
        "pairs.normalize": "candidates",
        "soft_target.temperature": 2.0,
        "label_weight": 0.5,
    }

    def loss(logits: Tensor) -> Tensor:
        return loss_of(Batch(student=logits, teacher=teacher, labels=torch.arange(5), progress=0.5), **options)

    assert torch.autograd.gradcheck(loss, student.requires_grad_())


def test_parts_carry_their_weights_and_alpha() -> None:
    student, teacher = scores()
    objective = GRKD(ranking=(Pairs(weight=3.0),), anchor=(SoftTarget(weight=0.5),), alpha_shape="cosine")
    terms = {term.name: term for term in objective.terms(Batch(student=student, teacher=teacher, progress=0.25))}
    alpha = (1 - math.cos(math.pi / 4)) / 2
    assert {name: term.weight for name, term in terms.items()} == pytest.approx(
        {"group_relative": 3 * alpha, "soft_target": 0.5 * (1 - alpha)}
    )
    assert objective.logged(0.25) == {"alpha": pytest.approx(alpha)}


def test_terms_of_one_name_are_numbered() -> None:
    student, teacher = scores()
    objective = GRKD(ranking=(Pairs(), Pairs(tau=2.0), SoftTarget(), SoftTarget(over="batch")))
    names = [term.name for term in objective.terms(Batch(student=student, teacher=teacher, progress=0.5))]
    assert names == ["group_relative", "group_relative_2", "soft_target", "soft_target_over_batch", "soft_target_2"]


def test_labels() -> None:
    student, teacher = scores(rows=3, candidates=4)
    with pytest.raises(ValueError, match="labels"):
        loss_of(Batch(student=student, teacher=teacher), label_weight=0.1)
    # A label on a missing candidate does not count.
    mask = torch.tensor([[True, True, True, False], [True] * 4, [True] * 4])
    batch = Batch(student=student, teacher=teacher, mask=mask, labels=torch.tensor([3, 1, 2]), progress=0.0)
    term = objectives.load("grkd", label_weight=1.0).terms(batch)[-1]
    assert (term.name, term.counted.tolist()) == ("labels", [False, True, True])
    expected = -student[1:].log_softmax(-1)[[0, 1], [1, 2]]
    torch.testing.assert_close(term.rows, torch.cat([torch.zeros(1, dtype=torch.float64), expected]))


PAIRS, SOFT = "group_relative", "soft_target"


@pytest.mark.parametrize(
    ("options", "at_rows", "at_responses"),
    [
        ({}, {PAIRS, SOFT}, set()),
        ({"label_weight": 1.0}, {PAIRS, SOFT, "labels"}, set()),
        ({"ranking": RESPONSES}, {SOFT}, {PAIRS}),
        ({"ranking": RESPONSES, "label_weight": 1.0}, {SOFT, "labels"}, {PAIRS}),
        ({"ranking": RESPONSES, "soft_target.level": "response"}, set(), {PAIRS, SOFT}),
        ({"ranking": (Pairs(), *RESPONSES)}, {PAIRS, SOFT}, {PAIRS}),
        ({"ranking": RESPONSES, "anchor": ()}, set(), {PAIRS}),
        ({"ranking": (Pairs(weight=0.0), *RESPONSES)}, {SOFT}, {PAIRS}),
        ({"ranking": RESPONSES, "alpha_shape": "constant"}, set(), {PAIRS}),
        ({"alpha_ceiling": 0.0}, {SOFT}, set()),
        ({"alpha_shape": "constant"}, {PAIRS}, set()),
        ({"pairs.weight": 0.0}, {SOFT}, set()),
    ],
    ids=lambda value: ",".join(sorted(map(str, value)))[:60],  # the order of a set differs between processes
)
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_levels_and_terms(options: dict[str, Any], at_rows: set[str], at_responses: set[str], progress: float) -> None:
    objective = objectives.load("grkd", **options)
    expected: dict[Level, set[str]] = {"row": at_rows, "response": at_responses}
    assert objective.levels == tuple(level for level in ("row", "response") if expected[level])
    student, teacher = scores()
    rows = Batch(student=student, teacher=teacher, labels=torch.arange(5), progress=progress)
    # The same terms at every point of training, so that logs and ranks agree; alpha may make a weight 0.
    assert {term.name for term in objective.terms(rows)} == at_rows
    assert {term.name for term in objective.terms(responses(progress))} == at_responses


def test_responses_by_hand() -> None:
    batch = responses()
    assert batch.teacher is not None
    assert batch.mask is not None
    objective = GRKD(ranking=(Pairs(level="response", tau=0.2, weight=3.0),), alpha_ceiling=0.8)
    (term,) = objective.terms(batch)
    assert term.weight == pytest.approx(3 * 0.8 * 0.3)
    assert term.counted.tolist() == [True, True, False]  # a lone response has no pair
    for row in (0, 1):
        s, t = batch.student[row, batch.mask[row]].tolist(), batch.teacher[row, batch.mask[row]].tolist()
        margins = [(s[i] - s[j]) / 0.2 for i in range(len(s)) for j in range(len(s)) if t[i] > t[j]]
        expected = sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)
        assert term.rows[row].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "pair_scale", "soft_scale"),
    [
        ({"pairs.weight": 3.0, "soft_target.weight": 2.0}, 3.0, 2.0),
        ({"ranking": RESPONSES}, 0.0, 1.0),
        ({"ranking": (*RESPONSES, Pairs(weight=0.5))}, 0.5, 1.0),
        ({"alpha_ceiling": 0.0}, 0.0, 1.0),
        ({"alpha_shape": "constant"}, 1.0, 0.0),
        ({"soft_target.divergence": "reverse_kl"}, 1.0, 1.0),
    ],
    ids=str,
)
def test_the_head_gets_the_parts_over_rows(options: dict[str, Any], pair_scale: float, soft_scale: float) -> None:
    objective = objectives.load("grkd", **options)
    found = objective.head_options(0.3)
    assert found is not None
    assert (found["pair_scale"], found["soft_scale"]) == pytest.approx((pair_scale, soft_scale))
    student, teacher = scores()
    weights = {
        term.name: term.weight for term in objective.terms(Batch(student=student, teacher=teacher, progress=0.3))
    }
    pairs, divergence = objective.head_names
    assert found["alpha"] * found["pair_scale"] == pytest.approx(weights.get(pairs, 0.0))
    assert (1 - found["alpha"]) * found["soft_scale"] == pytest.approx(weights.get(divergence, 0.0))


@pytest.mark.parametrize(
    "options",
    [
        {"label_weight": 0.5},
        {"teacher_temperature": 0.5},
        {"ranking": RESPONSES, "anchor": (SoftTarget(level="response"),)},
        {"ranking": (Pairs(), Pairs(tau=2.0))},
        {"ranking": (Pairs(), Correlation())},
        {"ranking": (SoftTarget(),)},
        {"anchor": (Pairs(),)},
        {"preset": "classes"},
    ],
    ids=str,
)
def test_the_head_is_refused_where_it_cannot(options: dict[str, Any]) -> None:
    assert objectives.load("grkd", **options).head_options(0.3) is None


@pytest.mark.parametrize(
    "options",
    [
        {"pairs.weight": 0.0, "soft_target.weight": 0.0},
        {"ranking": (), "anchor": ()},
        {"alpha_ceiling": 0.0, "soft_target.weight": 0.0},
    ],
    ids=str,
)
def test_weights_that_leave_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="every loss term has weight 0"):
        objectives.load("grkd", **options)


def test_the_share_that_is_sampled_in_training() -> None:
    """Also with parts on responses: the recipe's rankers score what is sampled."""
    assert objectives.load("grkd", preset="responses", on_policy_fraction=1.0).on_policy == 1.0
    assert objectives.load("grkd", on_policy_fraction=0.5).on_policy == 0.5
    assert objectives.load("grkd").on_policy == 0.0


def test_a_teacher_temperature_is_a_teacher_with_other_scores() -> None:
    student, teacher = scores(rows=4)
    parts: tuple[Part, ...] = (Pairs(target="soft"), Correlation(over="batch"), SoftTarget(over="batch"))
    plain = GRKD(ranking=parts, anchor=(SoftTarget(temperature=2.0),))
    batch = Batch(student=student, teacher=teacher, progress=0.5)
    sharpened = replace(batch, teacher=teacher / 0.5)
    found = combine(replace(plain, teacher_temperature=0.5).terms(batch))
    torch.testing.assert_close(found, combine(plain.terms(sharpened)))
    # Scores of responses are not touched.
    of_responses = GRKD(ranking=RESPONSES, anchor=(SoftTarget(level="response"),))
    expected = combine(of_responses.terms(responses()))
    torch.testing.assert_close(combine(replace(of_responses, teacher_temperature=0.5).terms(responses())), expected)


@pytest.mark.parametrize(
    ("given", "built"),
    [
        ({"pairs.tau": 2}, GRKD(ranking=(Pairs(tau=2.0),))),
        ({"ranking.pairs.tau": 2.0}, GRKD(ranking=(Pairs(tau=2.0),))),
        ({"ranking.0.tau": 2.0}, GRKD(ranking=(Pairs(tau=2.0),))),
        (
            {"ranking": [{"part": "pairs"}, {"part": "soft_target"}], "soft_target.temperature": 4.0},
            GRKD(ranking=(Pairs(), SoftTarget(temperature=4.0)), anchor=(SoftTarget(temperature=4.0),)),
        ),
        (
            {"ranking": [{"part": "pairs"}, {"part": "soft_target"}], "anchor.soft_target.temperature": 4.0},
            GRKD(ranking=(Pairs(), SoftTarget()), anchor=(SoftTarget(temperature=4.0),)),
        ),
        (
            {"ranking": [{"part": "pairs"}, {"part": "pairs", "level": "response"}], "ranking.1.tau": 0.1},
            GRKD(ranking=(Pairs(), Pairs(level="response", tau=0.1))),
        ),
        (
            {"ranking.pairs.over": "batch", "ranking.pairs.group": "all"},
            GRKD(ranking=(Pairs(over="batch", group="all"),)),
        ),
        ({"pairs.tau": 2.0, "ranking.0.tau": 3.0}, GRKD(ranking=(Pairs(tau=3.0),))),
    ],
    ids=lambda value: str(value)[:40],
)
def test_dotted_paths(given: dict[str, Any], built: GRKD) -> None:
    assert objectives.load("grkd", **given) == built
    spelt_out = GRKD.spelt_out(given)
    assert objectives.load("grkd", **spelt_out) == built
    assert not any("." in name for name in spelt_out)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pairs.tua": 1.0}, r"unknown option 'pairs.tua' \(did you mean 'pairs.tau'\?\)"),
        ({"temprature": 1.0}, r"unknown option 'temprature' \(did you mean 'pairs.temperature'\?\)"),
        ({"correlation.weight": 1.0}, "unknown option 'correlation.weight'"),  # no part of this name
        ({"ranking.1.tau": 1.0}, "unknown option 'ranking.1.tau'"),
        ({"pairs.tau": "1"}, "pairs.tau must be a finite number, got '1'"),
        ({"pairs.tau": 0}, "pairs: tau must be above 0, got 0.0"),
        ({"ranking": "pairs"}, "ranking: expected a list of parts"),
        ({"ranking": ["pairs"]}, "ranking.0: expected a part, such as {part: pairs, tau: 0.5}, got 'pairs'"),
        ({"ranking": [{"part": "pair"}]}, r"ranking.0.part: unknown part 'pair' \(did you mean 'pairs'\?\)"),
        ({"ranking": [{"part": "pairs", "tue": 1}]}, r"unknown option 'ranking.0.tue' \(did you mean 'tau'\?\)"),
        ({"ranking": [{"part": "pairs", "tau": "1"}]}, "ranking.0.tau must be a finite number, got '1'"),
        ({"ranking": [{"part": "pairs", "tau": 0}]}, "ranking.0: pairs: tau must be above 0"),
        ({"ranking": [{"part": "os:system"}]}, "os is in Python's standard library"),
        ({"preset": "clases"}, "preset must be one of paper, tokens, responses, lists, classes, got 'clases'"),
        ({"preset": ["paper"]}, "preset must be one of paper"),
        ({"alpha_ceiling": 1.1}, r"alpha_ceiling must be in \[0, 1\], got 1.1"),
        ({"label_weight": -0.1}, "label_weight must be 0 or more"),
        ({"alpha_shape": "stairs"}, "alpha_shape must be one of linear, cosine, constant"),
        ({"on_policy_fraction": 1.1}, r"on_policy_fraction must be in \[0, 1\]"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"^grkd: .*{said}") as raised:
        objectives.load("grkd", **given)
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)
