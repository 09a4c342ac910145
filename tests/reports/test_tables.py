import io
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from grkd.metrics.registry import metric_of
from grkd.reports import markdown_table, print_tables, read_run
from grkd.reports.outcome import outcome
from grkd.reports.seeds import half_width, p_value
from grkd.reports.summary import summarise
from grkd.reports.tables import DASH, count, duration, fixed, number

MakeRun = Callable[..., Path]
ACCURACY = {"ce": [0.90, 0.91, 0.92], "kd": [0.93, 0.95, 0.94], "grkd": [0.94, 0.955, 0.951]}


def rows_of(values: dict[str, list[float | None]], metric: str = "accuracy") -> list[dict[str, object]]:
    return [
        {"method": method, "seed": seed, "metric": metric, "value": value}
        for method, found in values.items()
        for seed, value in enumerate(found)
    ]


def outcome_of(folder: Path) -> str:
    run = read_run(folder)
    return outcome(run, summarise(run)).replace("\u00a0", " ")


def markdown_rows(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {line[0].strip(): line[1:] for line in cells}


def test_numbers_are_those_computed_by_hand(make_run: MakeRun) -> None:
    table = markdown_rows(markdown_table(read_run(make_run())))
    # kd: mean 94.00; s = 1 point; t(0.975, 2) = 4.3027; 4.3027 / sqrt(3) = 2.48; difference to none 94 - 91 = 3.
    assert table["kd"] == ["94.00 ± 2.48 (+3.00)", "1 min 00 s"]
    assert table["ce"] == ["91.00 ± 2.48", "1 min 00 s"]
    # grkd: mean of 94.0, 95.5, 95.1 = 94.87; s = 0.7767; half-width 1.93.
    assert table["grkd"] == ["**94.87 ± 1.93 (+3.87)** ✓", "1 min 00 s"]
    assert table["teacher"] == ["97.20", DASH]
    assert table["student before"] == ["10.00", DASH]


def test_headers_tell_unit_and_direction(make_run: MakeRun) -> None:
    text = markdown_table(read_run(make_run("a", task="language_model"))).replace("\u00a0", " ")
    assert "| forward KL (nats) ↓ | Kendall tau ↑ |" in text
    assert "accuracy (%) ↑" in markdown_table(read_run(make_run("b"))).replace("\u00a0", " ")


def test_markdown_says_which_runs_failed_and_why(make_run: MakeRun) -> None:
    text = markdown_table(read_run(make_run(status={"pld-seed0": "failed: out of memory"})))
    assert "- failed, pld-seed0: out of memory\n" in text
    assert "failed" not in markdown_table(read_run(make_run("whole")))


def test_one_seed_shows_the_bootstrap_interval_and_claims_nothing(make_run: MakeRun) -> None:
    text = markdown_table(read_run(make_run(task="language_model")))
    table = markdown_rows(text)
    assert table["kd"][0] == "**0.600 [0.580, 0.620] (\u22121.100)**"
    assert table["teacher"] == ["0.000", DASH]
    assert "One seed: no claim that a method is better than another." in text
    assert "✓" not in text


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=8).filter(lambda values: len(set(values)) > 1))
def test_half_width_against_scipy(values: list[float]) -> None:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=statistics.fmean(values), scale=stats.sem(values))
    found = half_width(values)
    assert found is not None
    assert math.isclose(found, (high - low) / 2, rel_tol=1e-6, abs_tol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.02, 0.05])
def test_p_value_against_scipy(shift: float) -> None:
    ours, other = [0.91 + shift, 0.93 + shift, 0.915 + shift], [0.90, 0.935, 0.92]
    differences = [one - two for one, two in zip(ours, other, strict=True)]
    assert p_value(differences) == pytest.approx(stats.ttest_rel(ours, other).pvalue, rel=1e-9)


def test_differences_without_spread_or_number_are_no_evidence() -> None:
    assert math.isnan(p_value([0.01, 0.01, 0.01]))
    assert math.isnan(p_value([0.5]))
    assert half_width([0.5]) is None


def test_better_only_where_the_paired_test_supports_it(make_run: MakeRun) -> None:
    # grkd - kd: .010, .005, .011 (t = 4.67, p = .043); grkd - none: .04, .045, .031 (t = 9.4, p = .011, Holm .022).
    verdict = summarise(read_run(make_run("a"))).verdicts["accuracy"]
    expected = {other: stats.ttest_rel(ACCURACY["grkd"], ACCURACY[other]).pvalue < 0.05 for other in ("ce", "kd")}
    assert verdict.best == "grkd"
    assert {other: other in verdict.better_than for other in expected} == expected
    noisy = rows_of({"kd": [0.90, 0.95, 0.92], "grkd": [0.93, 0.92, 0.94]})
    text = markdown_table(read_run(make_run("b", rows=noisy)))
    assert "No significant difference between the best method and the others: accuracy." in text
    assert "✓" not in text
    assert "in a paired t test over seeds, with Holm's correction" in markdown_table(read_run(make_run("c")))


def behind(ratio: float) -> list[float]:
    """Accuracies of three seeds behind BEST by ratio * .001 on average, the differences .001 apart.

    So t = ratio * sqrt(3) with 2 degrees of freedom, and p = 1 - t / sqrt(2 + t^2).
    """
    return [best - 0.001 * (ratio + step) for best, step in zip(BEST, (-1, 0, 1), strict=True)]


BEST = [0.95, 0.97, 0.96]


@pytest.mark.parametrize(
    ("ratios", "beaten"),
    [
        # p by the formula: 5 -> .0131, 4 -> .0202, 3.5 -> .0261, 2.6 -> .0459: each below .05 by itself.
        ({"a": 2.6}, ("a",)),
        ({"a": 2.6, "b": 2.6}, ()),  # 2 * .0459
        ({"a": 4, "b": 2.6}, ("a", "b")),  # 2 * .0202 = .0404; .0459
        ({"a": 2.6, "b": 3.5}, ()),  # 2 * .0261 = .0523, and what comes after it falls with it
        ({"a": 5, "b": 4, "c": 2.6}, ("a", "b", "c")),  # 3 * .0131 = .0393; 2 * .0202 = .0404; .0459
        ({"a": 2.6, "b": 3.5, "c": 5}, ("c",)),  # .0393; .0523
    ],
)
def test_better_survives_holm(make_run: MakeRun, ratios: dict[str, float], beaten: tuple[str, ...]) -> None:
    values: dict[str, list[float | None]] = {"best": [*BEST]} | {name: [*behind(one)] for name, one in ratios.items()}
    run = read_run(make_run(rows=rows_of(values)))
    verdict = summarise(run).verdicts["accuracy"]
    assert (verdict.best, verdict.tested) == ("best", True)
    assert verdict.better_than == beaten
    assert ("✓" in markdown_table(run)) == (len(beaten) == len(ratios))
    for name, ratio in ratios.items():
        t = ratio * math.sqrt(3)
        found = p_value([one - other for one, other in zip(BEST, behind(ratio), strict=True)])
        assert found == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-6), name


@pytest.mark.parametrize(
    ("ratios", "differing"), [((2.6,), (True,)), ((2.6, 2.6), (False, False)), ((4, 2.6), (True, True))]
)
def test_the_difference_to_the_baseline_survives_holm(
    make_run: MakeRun, ratios: tuple[float, ...], differing: tuple[bool, ...]
) -> None:
    values: dict[str, list[float | None]] = {"ce": [*BEST]}
    values |= {f"kd{number}": [*behind(ratio)] for number, ratio in enumerate(ratios)}
    run = read_run(make_run(rows=rows_of(values)))
    lines = {line.label: line for line in summarise(run).lines}
    assert tuple(lines[f"kd{number}"].cells["accuracy"].differs for number in range(len(ratios))) == differing
    assert ("significantly worse" in outcome(run, summarise(run))) == any(differing)


def test_outcome_says_that_grkd_loses(make_run: MakeRun) -> None:
    lost = outcome_of(make_run("a", rows=rows_of({"kd": [0.95, 0.96, 0.955], "grkd": [0.90, 0.912, 0.903]})))
    assert "kd has the highest accuracy, 95.50 ± 1.24 %, and is significantly better than grkd." in lost
    assert "grkd does not win here: 90.50 ± 1.55 %, significantly behind kd." in lost
    unclear = outcome_of(make_run("b", rows=rows_of({"kd": [0.90, 0.95, 0.94], "grkd": [0.92, 0.91, 0.93]})))
    assert "its lead is not significant" in unclear
    assert "grkd does not win here: 92.00 ± 2.48 %; its distance to kd is not significant." in unclear


def test_outcome_of_one_seed_claims_nothing(make_run: MakeRun) -> None:
    text = outcome_of(make_run(task="language_model"))
    assert "With one seed, none of this shows that one method is better than another." in text
    assert "significant" not in text
    assert "Against the student before distillation, 1.700 nats: kd and grkd are lower" in text
    overlapping = [
        {"method": "before", "seed": None, "metric": "forward_kl_nats", "value": 0.61, "low": 0.5, "high": 0.7},
        {"method": "grkd", "seed": 0, "metric": "forward_kl_nats", "value": 0.60, "low": 0.5, "high": 0.7},
    ]
    text = outcome_of(make_run("b", task="language_model", rows=overlapping))
    assert "grkd has an interval that overlaps it" in text


def test_a_method_that_lost_a_seed_is_neither_best_nor_tested(make_run: MakeRun) -> None:
    rows = rows_of({"ce": [0.90, 0.91, 0.92], "kd": [0.93, 0.945, 0.95], "grkd": [0.98, 0.99, None]})
    run = read_run(make_run(rows=rows, status={"grkd-seed2": "failed: loss is NaN"}))
    summary = summarise(run)
    assert summary.verdicts["accuracy"].best == "kd"
    assert summary.verdicts["accuracy"].not_better_than == ("grkd",)
    assert "2 of 3 seeds" in markdown_rows(markdown_table(run))["grkd"][0]
    told = outcome(run, summary)
    assert "1 of 9 trainings failed" in told
    assert "Of the methods that have all their seeds, kd has the highest accuracy" in told
    assert "grkd is not tested" in told


def test_lower_is_better_for_nats(make_run: MakeRun) -> None:
    rows = rows_of({"kd": [0.5, 0.6, 0.55], "grkd": [0.4, 0.51, 0.45]}, metric="nll_nats")
    assert summarise(read_run(make_run(rows=rows))).verdicts["nll_nats"].best == "grkd"


def test_unknown_metric_is_shown_without_a_winner(make_run: MakeRun) -> None:
    run = read_run(make_run(rows=rows_of({"kd": [1.0, 2.0, 3.5], "grkd": [4.0, 5.0, 6.0]}, metric="zest")))
    assert summarise(run).verdicts == {}
    assert "| zest |" in markdown_table(run)
    assert "**" not in markdown_table(run)


def test_numbers_and_durations() -> None:
    assert number(0.9123, metric_of("accuracy")) == "91.23"
    assert number(-0.00001, metric_of("kendall_tau"), sign=True) == "+0.000"
    assert number(-0.25, metric_of("kendall_tau"), sign=True) == "\u22120.250"
    assert [duration(seconds) for seconds in (None, 2.34, 48.2, 59.7, 725.0, 12000.0)] == [
        DASH,
        "2.3 s",
        "48 s",
        "1 min 00 s",
        "12 min 05 s",
        "3 h 20 min",
    ]


def test_print_tables_shows_text_that_looks_like_markup(make_run: MakeRun) -> None:
    rows = rows_of({"[red]kd": [0.9, 0.91, 0.94], "grkd": [0.92, 0.94, 0.945]})
    rows += [{"method": "grkd", "seed": 0, "metric": "[/zest]", "value": 1.0}]
    stream = io.StringIO()
    failed = {"x-seed0": "failed: [bold]oom"}
    print_tables([read_run(make_run(rows=rows, title="A [b]title", status=failed))], Console(file=stream, width=160))
    text = stream.getvalue()
    for expected in ("A [b]title", "[red]kd", "[/zest]", "x-seed0: [bold]oom", "91.67", "± 5.17"):
        assert expected in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_many_methods_are_shown_whole_in_as_many_tables_as_they_need(make_run: MakeRun, width: int) -> None:
    names = [f"method-{number}" for number in range(13)]
    rows = rows_of({name: [0.5 + place / 100, 0.51 + place / 100] for place, name in enumerate(names)})
    stream = io.StringIO()
    print_tables([read_run(make_run(rows=rows))], Console(file=stream, width=width))
    text = stream.getvalue()
    table = text[: text.index("±: half-width")]
    assert "…" not in table
    shown = [[word for word in line.split() if "method-" in word] for line in table.splitlines()]
    shown = [names_of_one for names_of_one in shown if names_of_one]
    assert [name for line in shown for name in line] == names
    assert max(len(line) for line in table.splitlines()) <= width
    assert (len(shown) == 1) == (width == 200)
    assert table.count("accuracy") == len(shown)


def test_no_results_yet(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "results.json").unlink()
    assert markdown_table(read_run(folder)) == "No results yet.\n"
    assert outcome_of(folder) == "No results yet."


def test_students_of_whom_nothing_can_be_measured(make_run: MakeRun) -> None:
    """A cache of samples gives no metric of ranks: a run that is over does not say "yet"."""
    run = read_run(make_run(task="language_model", rows=[]))
    assert markdown_table(run).startswith("Nothing was measured: ")
    assert "evaluation.questions" in outcome(run, summarise(run))
    failed = read_run(make_run("failed", task="language_model", rows=[], status={"kd-seed0": "failed: no memory"}))
    assert outcome(failed, summarise(failed)).startswith("No results yet.")


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (None, DASH),
        (0.0, "0"),
        (950.0, "950"),
        (999.4, "999"),
        (999.6, "1 k"),
        (12_345.0, "12.3 k"),
        (999_499.0, "999 k"),
        (999_600.0, "1 M"),
        (4_560_000.0, "4.56 M"),
        (999_600_000.0, "1 G"),
    ],
)
def test_counts_have_three_digits_and_the_letter_of_what_is_shown(rows: float | None, text: str) -> None:
    assert count(rows) == text


def test_sizes_and_zeros_are_as_they_are_shown() -> None:
    assert [count(size, ("kB", "MB", "GB"), " B") for size in (7.0, 999_999.0)] == ["7 B", "1 MB"]
    assert [fixed(value, 2, sign=sign) for value, sign in ((-0.001, False), (-0.001, True))] == ["0.00", "+0.00"]
