"""Which method of the on-policy experiment is better than which: paired tests over questions, and the targets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grkd.statistics import PairedDifference, holm, paired_bootstrap

OURS = "grkd"
# The methods that the experiment was made to compare with: to be above all but one, first or level with that.
RIVALS = ("kd", "opd", "grpo-teacher-kl", "kd-mixed", "opd-mixed")
LEVEL_WITH = "grpo-teacher-kl"
LONG = "-long"  # runs of another length than the others, which are shown and not compared
# Methods that differ in one thing: what it is, and pairs of (with it, without it).
EFFECTS = {
    "pairs of responses": (("grkd-stored", "kd"), ("grkd-mixed", "kd-mixed")),
    "the student's own responses": (("kd-mixed", "kd"), ("grkd-mixed", "grkd-stored")),
    "pairs of stored and own responses": (("grkd", "opd-mixed"),),
    "pairs beside the forward KL": (("grkd", "kd-mixed"),),
}
Found = Mapping[str, Any]


def by_label(found: Found) -> dict[str, list[Any]]:
    """label -> its runs, by seed."""
    runs: dict[str, list[Any]] = {}
    for one in sorted(found["runs"].values(), key=lambda run: run["seed"]):
        runs.setdefault(one["method"], []).append(one)
    return runs


def compared(found: Found, label: str, rival: str) -> PairedDifference | None:
    """Exact match of one method minus another's, over the seeds that both have, resampled over questions.

    A question's value is the mean over the seeds. None if they share no seed.
    """
    ours, theirs = ({run["seed"]: run for run in by_label(found).get(name, [])} for name in (label, rival))
    shared = sorted(set(ours) & set(theirs))
    if not shared:
        return None
    return paired_bootstrap(*(shares([runs[seed] for seed in shared]) for runs in (ours, theirs)))


def effects(found: Found) -> str:
    """What one thing adds, over all pairs of methods that differ in it alone; empty where they were not all run."""
    labels, tests = by_label(found), {}
    for what, pairs in EFFECTS.items():
        if any(label not in labels for pair in pairs for label in pair):
            continue
        seeds = set.intersection(*({run["seed"] for run in labels[label]} for pair in pairs for label in pair))
        sides = [
            np.mean([shares([run for run in labels[pair[side]] if run["seed"] in seeds]) for pair in pairs], axis=0)
            for side in (0, 1)
        ]
        tests[what] = (pairs, paired_bootstrap(*sides))
    if not tests:
        return ""
    rows = [["what is added", "to", "difference (points)", "95 % interval", "p"], ["---", "---", *["---:"] * 3]]
    adjusted = holm([test.p for _, test in tests.values()])
    for (what, (pairs, test)), p in zip(tests.items(), adjusted, strict=True):
        interval = f"[{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
        to = ", ".join(f"`{without}`" for _, without in pairs)
        rows.append([what, to, f"{100 * test.difference:+.1f}", interval, f"{p:.3f}"])
    note = (
        "Differences between methods that differ in one thing alone, the mean over the pairs of methods; tested as\n"
        "below, p after Holm's correction over these."
    )
    return f"{note}\n\n{table(rows)}"


def family(found: Found) -> dict[tuple[str, str], tuple[PairedDifference, float]]:
    """(one of ours, rival) -> the paired test and its p after Holm's correction over all of them."""
    labels = list(by_label(found))
    tests = {
        (ours, rival): test
        for ours in labels
        if ours.startswith(OURS) and not ours.endswith(LONG)
        for rival in RIVALS
        if (test := compared(found, ours, rival)) is not None
    }
    adjusted = holm([test.p for test in tests.values()])
    return {pair: (test, float(p)) for (pair, test), p in zip(tests.items(), adjusted, strict=True)}


def others(found: Found) -> dict[str, tuple[PairedDifference, float]]:
    """Every method that is not ours -> its test against the first rival, and p after Holm's correction over these."""
    tests = {
        label: test
        for label in by_label(found)
        if not label.startswith(OURS)
        and not label.endswith(LONG)
        and label != RIVALS[0]
        and (test := compared(found, label, RIVALS[0]))
    }
    adjusted = holm([test.p for test in tests.values()])
    return {label: (test, float(p)) for (label, test), p in zip(tests.items(), adjusted, strict=True)}


def means_of(found: Found) -> dict[str, float]:
    """label -> exact match in %, the mean over questions and seeds, best first; without runs of another length."""
    means = {
        label: 100 * float(np.mean(shares(runs))) for label, runs in by_label(found).items() if not label.endswith(LONG)
    }
    return dict(sorted(means.items(), key=lambda each: -each[1]))


def best_of(found: Found) -> str:
    """The best method, the best of ours if that is another, the start; and whether any test tells methods apart."""
    means = means_of(found)
    best, ours = next(iter(means)), next((name for name in means if name.startswith(OURS)), None)
    other = "" if ours in (best, None) else f"; the best `grkd` is `{ours}` ({means[str(ours)]:.1f} %)"
    before = 100 * found["sittings"][-1]["before"]["metrics"]["exact_match"]["value"]
    shown = f"The best is `{best}` ({means[best]:.1f} %){other}; the student before training has {before:.1f} %."
    tests = [*family(found).values(), *others(found).values()]
    apart = any(p < 0.05 for _, p in tests)
    return (
        f"**{shown}**" if apart or not tests else f"**No test below shows a difference between two methods.** {shown}"
    )


def targets(found: Found) -> list[str]:
    """A line for each of ours and each target, reached or missed; what was not run or failed."""
    lines = []
    for (ours, rival), (test, p) in family(found).items():
        goal, reached = f"above `{rival}`", p < 0.05 and test.difference > 0
        if rival == LEVEL_WITH:
            goal, reached = f"above or level with `{rival}`", not (p < 0.05 and test.difference < 0)
        found_to_be = "no significant difference" if not p < 0.05 else "better" if test.difference > 0 else "worse"
        words = f"{found_to_be}, {100 * test.difference:+.1f} points, p = {p:.3f}"
        lines.append(f"- `{ours}` {goal}: **{'reached' if reached else 'missed'}** ({words}).")
    missing = [name for name in found["plan"] if name not in by_label(found)]
    if missing:
        lines.append(f"- Not run: {', '.join(f'`{name}`' for name in missing)}.")
    lines += [f"- {name} failed: {reason}" for name, reason in found["failed"].items()]
    return lines


def paired_table(found: Found) -> str:
    """Ours against the rivals, then every other method against the first of them."""
    head = ["", "against", "difference (points)", "95 % interval", "p", "seeds above", ""]
    rows = [head, ["---", "---", *["---:"] * 4, "---"]]
    rows += [_tested(found, ours, rival, test, p) for (ours, rival), (test, p) in family(found).items()]
    rows += [_tested(found, label, RIVALS[0], test, p) for label, (test, p) in others(found).items()]
    note = (
        "A question's value is the mean over the seeds that both methods have. Intervals and p come from a bootstrap\n"
        'over questions, so they do not contain the variation between seeds; "seeds above" says in how many seeds the\n'
        "first method is ahead. p after Holm's correction: over all tests of `grkd`, and over those of other methods."
    )
    return f"{note}\n\n{table(rows)}"


def _tested(found: Found, label: str, rival: str, test: PairedDifference, p: float) -> list[str]:
    verdict = "" if not p < 0.05 else "better" if test.difference > 0 else "worse"
    interval = f"[{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
    ours, theirs = (
        {run["seed"]: run["metrics"]["exact_match"]["value"] for run in by_label(found)[name]}
        for name in (label, rival)
    )
    shared = sorted(ours.keys() & theirs.keys())
    above = f"{sum(ours[seed] > theirs[seed] for seed in shared)} of {len(shared)}"
    return [label, rival, f"{100 * test.difference:+.1f}", interval, f"{p:.3f}", above, verdict]


def shares(runs: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """Of each question, the share of the runs that answer it right."""
    return np.mean([[int(digit) for digit in run["correct"]] for run in runs], axis=0, dtype=np.float64)


def table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
