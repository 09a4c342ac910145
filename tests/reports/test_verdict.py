"""The verdict in one sentence: by hand-made seeds, and no more than the tests support."""

from collections.abc import Callable
from pathlib import Path

import pytest

from grkd.reports import read_run
from grkd.reports.summary import summarise
from grkd.reports.verdict import verdict
from tests.reports.test_claims import rows_of

MakeRun = Callable[..., Path]


def said(make_run: MakeRun, values: dict[str, list[float]], metric: str = "exact_match") -> tuple[str, str]:
    run = read_run(make_run(rows=rows_of(values, metric), task="language_model", status={}))
    found = verdict(summarise(run))
    assert found is not None
    return found.kind, found.text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        (
            {"before": [0.20], "grkd": [0.35, 0.36, 0.37], "kd": [0.30, 0.311, 0.32]},
            "ship",
            "Ship grkd: exact match 36.00 % over 3 seeds, 4.97 points above kd, the next.",
        ),
        # Differences 1, -1, 3 points: mean 1, deviation 2, an effect of .5, which needs 34 pairs.
        (
            {"before": [0.20], "grkd": [0.31, 0.30, 0.33], "kd": [0.30, 0.31, 0.30]},
            "unclear",
            "No difference shown between grkd and kd (1.00 points); "
            "31 more seeds would detect a difference of this size.",
        ),
        # Differences .1, .3, -.3 points: too small to be worth the seeds.
        (
            {"before": [0.20], "grkd": [0.301, 0.313, 0.297], "kd": [0.30, 0.31, 0.30]},
            "unclear",
            "No difference shown between grkd and kd (0.03 points); 5 more seeds would show 0.35 points.",
        ),
        (
            {"before": [0.40], "grkd": [0.31, 0.3, 0.33], "kd": [0.3, 0.31, 0.3]},
            "none",
            "No method beats the student before distillation: exact match 40.00 %.",
        ),
        (
            {"before": [0.30], "kd": [0.31, 0.30, 0.32]},
            "none",
            "No method is shown to beat the student before distillation (exact match 30.00 %) (1.00 points); "
            "7 more seeds would detect a difference of this size.",
        ),
        (
            {"before": [0.30], "kd": [0.41, 0.40, 0.42]},
            "ship",
            "Ship kd: exact match 41.00 % over 3 seeds, 11.00 points above the student before distillation.",
        ),
        (
            {"before": [0.20], "kd": [0.30, 0.31]},
            "few",
            "Not decided: kd is ahead of the student before distillation (30.50 %), but two seeds show no difference; "
            "run 3 seeds or more.",
        ),
        (
            {"grkd": [0.35], "kd": [0.30]},
            "few",
            "Not decided: grkd is ahead in exact match (35.00 %), but one seed shows no difference; "
            "run 3 seeds or more.",
        ),
        # A comparison that goes on: kd is tested, the leader is not yet.
        (
            {"before": [0.30], "grkd": [0.60, 0.61], "kd": [0.50, 0.51, 0.52]},
            "unclear",
            "No difference shown between grkd and kd; 2 seeds compare them, and a test takes 3.",
        ),
        (
            {"before": [0.30], "grkd": [0.50], "kd": [0.31, 0.30, 0.32]},
            "none",
            "No method is shown to beat the student before distillation (exact match 30.00 %); "
            "1 seed compares them, and a test takes 3.",
        ),
        # What the seed does not move has no spread to test by.
        (
            {"before": [0.30], "kd": [1.0, 1.0, 1.0]},
            "none",
            "No method is shown to beat the student before distillation (exact match 30.00 %) (70.00 points); "
            "it is the same for every seed, and a test over seeds needs some variation.",
        ),
    ],
)
def test_said(make_run: MakeRun, values: dict[str, list[float]], kind: str, text: str) -> None:
    assert said(make_run, values) == (kind, text)


def test_a_lost_seed_is_no_evidence(make_run: MakeRun) -> None:
    rows = rows_of({"before": [0.50], "kd": [0.50, 0.58, 0.47]}, "exact_match")
    found = verdict(summarise(read_run(make_run(rows=rows, task="language_model", status={"kd-seed3": "failed: x"}))))
    assert found is not None
    assert found.kind == "none"
    assert found.text.startswith("No method is shown to beat the student before distillation")


@pytest.mark.parametrize("divergence", [0.0, 0.5])
def test_a_student_that_began_as_the_teacher_is_not_beaten_by_its_nearness(
    make_run: MakeRun, divergence: float
) -> None:
    rows = rows_of({"before": [divergence], "grkd": [0.6, 0.7, 0.65]}, "forward_kl_nats")
    rows += rows_of({"before": [1.1], "grkd": [1.2, 1.3, 1.25]}, "soft_cross_entropy_nats")
    found = verdict(summarise(read_run(make_run(rows=rows, task="language_model", status={}))))
    assert found is not None
    assert found.kind == ("none" if divergence else "few")
    assert ("the student began as the teacher itself" in found.text) == (divergence == 0)
