"""The targets of the classification page: met where the tests say so, and plainly not met where they do not."""

import json
import math
from pathlib import Path

import pytest

from benchmarks import classification_table, classification_targets
from benchmarks.classification_table import comparisons
from benchmarks.classification_targets import better, not_worse
from grkd.statistics import PairedDifference
from tests._classification_results import BEST, OURS, made_up


def outcomes(lines: list[str]) -> dict[str, tuple[str, str]]:
    """target -> (outcome, figures)."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return {row[0]: (row[1], row[2]) for row in cells[2:]}


def test_what_the_tests_show_is_met_and_nothing_else(tmp_path: Path) -> None:
    ours, worse = {"grkd": OURS, "kd": BEST}, {"grkd": BEST, "kd": OURS}
    found = [
        made_up(tmp_path, ours, "tiny-small"),
        made_up(tmp_path, ours, "tiny-large"),
        made_up(tmp_path, ours, "cifar10-worst-small"),
        made_up(tmp_path, worse, "cifar10-worst-large"),
        made_up(tmp_path, ours, "banking77"),
        made_up(tmp_path, {"grkd": BEST, "kd": BEST}, "clinc150"),
    ]
    told = outcomes(classification_targets.section(found, comparisons, tmp_path))
    assert [outcome for outcome, _ in told.values()] == [
        "met",  # Tiny ImageNet, both
        "**not met**",  # CIFAR-10N worst: one of two
        "met",  # one of the texts is enough
        "**not met**",  # worse on one
        *["not measured"] * 4,
    ]
    figures = [figure for _, figure in told.values()]
    assert figures[0].startswith("tiny-small +2.20 [")
    assert figures[3] == "5 of 6; not on cifar10-worst-large"
    assert "\n## Targets\n" in classification_table.page(found)


def test_missing_experiments_leave_a_target_open_unless_the_others_decide_it(tmp_path: Path) -> None:
    ours, worse = {"grkd": OURS, "kd": BEST}, {"grkd": BEST, "kd": OURS}
    found = [
        made_up(tmp_path, ours, "tiny-small"),
        made_up(tmp_path, worse, "cifar10-worst-small"),
        made_up(tmp_path, ours, "banking77"),
    ]
    told = list(outcomes(classification_targets.section(found, comparisons, tmp_path)).values())
    assert [outcome for outcome, _ in told[:3]] == ["not measured", "**not met**", "met"]


def test_less_is_better_of_the_likelihood(tmp_path: Path) -> None:
    found = [made_up(tmp_path, {"grkd": OURS, "kd": BEST}, "cifar10-random1", "nll_nats")]
    told = outcomes(classification_targets.section(found, comparisons, tmp_path))
    assert told["no worse in NLL where labels are wrong"][0] == "**not met**"  # ours is the larger


@pytest.mark.parametrize(("ratio", "outcome"), [(1.1, "met"), (1.1001, "**not met**")])
def test_the_newest_speed_that_has_the_form(tmp_path: Path, ratio: float, outcome: str) -> None:
    def speed(date: str, method: str, value: float) -> None:
        row = {"method": method, "students": 8, "graphs": True, "ratio_to_kd": value}
        other = {**row, "students": 1, "ratio_to_kd": 9.0}
        (tmp_path / f"{date}-classification-speed.json").write_text(json.dumps({"rows": [other, row]}))

    speed("2026-01-01", classification_targets.SPEED, 5.0)
    speed("2026-01-02", classification_targets.SPEED, ratio)
    speed("2026-01-03", "kd", 1.0)
    told = list(outcomes(classification_targets.section([], comparisons, tmp_path)).values())
    assert told[-1] == (outcome, f"{ratio:.3f} (2026-01-02-classification-speed.json); 9.00 for 1 student with graphs")


def test_a_difference_without_a_test_meets_nothing_and_breaks_nothing() -> None:
    unknown = PairedDifference(0.1, math.nan, math.nan, math.nan)
    assert not better(unknown, 1)
    assert not_worse(unknown, -1)
    shown = PairedDifference(0.1, 0.05, 0.15, 0.049)
    assert (better(shown, 1), better(shown, -1), not_worse(shown, 1), not_worse(shown, -1)) == (
        True,
        False,
        True,
        False,
    )
