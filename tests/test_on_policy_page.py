"""The page of the on-policy experiment: targets, paired tests, what each part adds, from files of results."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import on_policy_table
from benchmarks._on_policy_curves import last_third
from grkd.files import write_json


def runs_of(label: str, share: float, *, seeds: int, questions: int = 300) -> dict[str, Any]:
    """Final runs whose questions are right with the probability `share`; the same questions are easy for all."""
    found = {}
    for seed in range(seeds):
        draws = np.random.default_rng(seed).random(questions)
        correct = "".join(str(int(draw < share)) for draw in draws)
        curve = [{"step": step, "seconds": float(step), "exact_match": share} for step in (0, 5, 10)]
        metrics = {"exact_match": {"value": correct.count("1") / questions}}
        found[f"{label}-seed{seed}"] = {
            "method": label,
            "seed": seed,
            "steps": 10,
            "seconds": 10.0,
            "tokens": 99,
            "sitting": 0,
            "ms": {},
            "curve": curve,
            "metrics": metrics,
            "correct": correct,
        }
    return found


def test_the_page_says_which_targets_are_missed(tmp_path: Path) -> None:
    side = {"metrics": {"exact_match": {"value": 0.25}}, "correct": "0" * 300}
    place = {"versions": {"torch": "2"}, "commit": "c" * 40, "command": "run", "date": "2026-11-28", "hardware": "H"}
    sides = {"before": side, "teacher": side, "starts": {"student": "s"}, "gpus": 1, "budget_seconds": 10.0}
    runs = runs_of("kd", 0.3, seeds=2) | runs_of("grkd-verifier", 0.5, seeds=2) | runs_of("opd", 0.6, seeds=1)
    runs |= (
        runs_of("grpo-teacher-kl", 0.505, seeds=2) | runs_of("grkd-votes", 0.4, seeds=2) | runs_of("gkd", 0.3, seeds=2)
    )
    found = {
        "questions": [str(n) for n in range(300)],
        "sittings": [place | sides],
        "runs": runs,
        "trials": {},
        "plan": {"kd": 1e-3, "dpo": 1e-3},
        "failed": {},
    }
    write_json(tmp_path / "on-policy.json", found)
    on_policy_table.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    ours, theirs = (
        np.mean([[int(digit) for digit in runs[f"{label}-seed{seed}"]["correct"]] for seed in range(2)])
        for label in ("grkd-verifier", "kd")
    )
    gain = f"{100 * (ours - theirs):+.1f}"
    assert f"- `grkd-verifier` above `kd`: **reached** (better, {gain} points, p = 0.0" in page
    assert "- `grkd-verifier` above `opd`: **missed** (worse, -" in page
    assert "- `grkd-verifier` above or level with `grpo-teacher-kl`: **reached** (no significant difference, -" in page
    assert "- `grkd-votes` above or level with `grpo-teacher-kl`: **missed** (worse, -" in page
    assert "- Not run: `dpo`." in page
    assert re.search(rf"\| grkd-verifier \| kd \| {re.escape(gain)} \| .* \| better \|", page)
    assert re.search(r"\| gkd \| kd \| \+0.0 \| .* \|  \|", page)
    assert "Second experiment" not in page


def test_the_page_says_what_each_part_adds(tmp_path: Path) -> None:
    side = {"metrics": {"exact_match": {"value": 0.25}}, "correct": "0" * 300}
    place = {"versions": {"torch": "2"}, "commit": "c" * 40, "command": "run", "date": "2026-11-28", "hardware": "H"}
    sides = {"before": side, "teacher": side, "starts": {"student": "s"}, "gpus": 1, "budget_seconds": 30.0}
    shares = {"kd": 0.3, "kd-mixed": 0.4, "grkd-stored": 0.5, "grkd-mixed": 0.6, "opd-mixed": 0.3}
    runs = {name: run for label, share in shares.items() for name, run in runs_of(label, share, seeds=2).items()}
    runs |= runs_of("kd-long", 0.9, seeds=1)
    found = {
        "questions": [str(n) for n in range(300)], "sittings": [place | sides], "runs": runs, "trials": {},
        "plan": dict.fromkeys([*shares, "kd-long", "grkd-mixed-long"], 6e-5), "failed": {},
    }  # fmt: skip
    write_json(tmp_path / "on-policy-mixed.json", found)
    on_policy_table.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "- Not run: `grkd-mixed-long`." in page
    means = {
        label: np.mean([[int(digit) for digit in runs[f"{label}-seed{seed}"]["correct"]] for seed in range(2)])
        for label in shares
    }
    pairs = (means["grkd-stored"] - means["kd"] + means["grkd-mixed"] - means["kd-mixed"]) / 2
    own = (means["kd-mixed"] - means["kd"] + means["grkd-mixed"] - means["grkd-stored"]) / 2
    assert f"| pairs of responses | `kd`, `kd-mixed` | {100 * pairs:+.1f} |" in page
    assert f"| the student's own responses | `kd`, `grkd-stored` | {100 * own:+.1f} |" in page
    assert "**The best is `grkd-mixed`" in page
    long = 100 * np.mean([int(digit) for digit in runs["kd-long-seed0"]["correct"]])
    assert f"| kd-long | 1 | {long:.1f} |" in page
    assert "| kd-long | kd |" not in page
    assert "First experiment" not in page
    assert "Designed after the test results of the first experiment were known" in page
    assert "shows a difference between two methods" not in page
    alike = {f"{label}-seed0": {**runs["kd-seed0"], "method": label} for label in shares}
    for name in ("on-policy-mixed.json", "on-policy.json"):
        write_json(tmp_path / name, {**found, "runs": alike})
    on_policy_table.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert page.count("**No test below shows a difference between two methods.** The best is `kd`") == 2
    assert "(student before training: second 25.0 %; first 25.0 %)" in page
    assert "- `kd` on stored responses is first in 2 of 2 experiments; no method is significantly better." in page


def test_the_rise_of_the_last_third() -> None:
    """The slope and its error of least squares with a level per curve, by the full design matrix."""
    seconds = np.arange(0.0, 100.0, 10.0)
    draws = np.random.default_rng(0).normal(0, 0.002, (3, 10))
    values = np.array([0.2, 0.25, 0.3])[:, None] + 0.001 * seconds + draws
    curves = [
        [{"step": n, "seconds": s, "exact_match": v} for n, (s, v) in enumerate(zip(seconds, row, strict=True))]
        for row in values
    ]
    late = seconds >= 60
    x, y = np.tile(seconds[late], 3), 100 * values[:, late].ravel()
    design = np.column_stack([x, np.repeat(np.eye(3), late.sum(), axis=0)])
    found, (squares,), *_ = np.linalg.lstsq(design, y)
    free = len(y) - 4
    error = np.sqrt(squares / free * np.linalg.inv(design.T @ design)[0, 0])
    rise, half = last_third(curves)
    np.testing.assert_allclose([rise, half], [found[0] * 30, stats.t.ppf(0.975, free) * error * 30])
    assert np.isnan(last_third([curve[:1] for curve in curves])).all()  # no points to draw a line through


def test_experiments_at_length_say_which_curves_are_flat(tmp_path: Path) -> None:
    without_pairs = "opd-mixed"
    side = {"metrics": {"exact_match": {"value": 0.25}}, "correct": "0" * 300}
    place = {"versions": {"torch": "2"}, "commit": "c" * 40, "command": "run", "date": "2026-11-28", "hardware": "H"}
    sides = {"before": side, "teacher": side, "starts": {"student": "s"}, "gpus": 1, "budget_seconds": 90.0}
    shares = {"kd": 0.3, "opd": 0.3, "grpo-teacher-kl": 0.3, "grkd": 0.6}
    runs = {name: run for label, share in shares.items() for name, run in runs_of(label, share, seeds=2).items()}
    rising = {"kd": 0.0, "opd": 0.01, "grpo-teacher-kl": -0.01, "grkd": 0.0}
    for run in runs.values():
        wave = 0.1 if run["method"] == "grkd" else 0.0005
        run["curve"] = [
            {"step": n, "seconds": 10.0 * n, "exact_match": 0.3 + rising[run["method"]] * n + wave * (-1) ** n}
            for n in range(10)
        ]
    found = {
        "questions": [str(n) for n in range(300)], "sittings": [place | sides | {"processes": 4}], "runs": runs,
        "trials": {}, "plan": dict.fromkeys([*shares, without_pairs], 3e-5), "failed": {},
    }  # fmt: skip
    write_json(tmp_path / "on-policy-long.json", found)
    on_policy_table.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    verdicts = dict(re.findall(r"\| (\S+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \| \S+ \| \[.*?\] \| ([a-z ]+) \|", page))
    assert verdicts == {"kd": "flat", "opd": "rising", "grpo-teacher-kl": "falling", "grkd": "not shown"}
    assert "- `grkd` above `opd`: **reached**" in page
    assert f"- Not run: `{without_pairs}`." in page
    assert "(4 processes)" in page
    assert "A step has 8 prompts with 8 responses each" in " ".join(page.split())
    assert "**Fewer than 1,000 steps** (of the run with fewest): `kd` (10), `opd` (10)" in page
    found["runs"] |= runs_of(without_pairs, 0.3, seeds=2)
    write_json(tmp_path / "on-policy-long.json", found)
    on_policy_table.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    ours, theirs = (
        np.mean([[int(digit) for digit in runs[f"{label}-seed{seed}"]["correct"]] for seed in range(2)])
        for label in ("grkd", without_pairs)
    )
    assert f"| `{without_pairs}` | {100 * (ours - theirs):+.1f} |" in page
