"""docs/results-lists.md from the kept figures of the comparison on lists: tables, paired tests, targets, edges."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._lists_data import SETS
from grkd.files import read_json, write_text
from grkd.statistics import PairedDifference, holm, paired_bootstrap

KINDS = {
    "scores": "scores",
    "warped": "warped",
    "two": "two",
    "order": "full order",
    "top5": "top 5",
    "top1": "top 1",
    "tiers": "noisy tiers",
}
PARTIAL = ("order", "top5", "top1", "tiers")
OURS, BEFORE, RIVAL = "grkd", "grkd_pairs", "plackett_luce"
_INTRODUCTION = """\
A small ranker (words, 64 dimensions) learns from a sentence encoder (all-MiniLM-L6-v2) how to order 32 candidates per
query, by what the teacher gives: its scores; scores that a rising function of its own bends for every query (warped);
the mean of its and BM25's z-scores (two); a full order; its first five or its first candidate against the rest; four
tiers of an order in which 30 % of the pairs are turned round (noisy tiers). Methods that need scores get
-log(place) where there are none. Every method has 12 trials over learning rates (half a decade apart) and one setting
(a factor of 2 apart): six coarse ones, then around the best, measured on validation queries; on the sets that say so,
up to 20 while its best stands at an edge of what was tried. Figures are NDCG@10 in % on test queries, means of five
seeds, over the whole corpus (of `wikiqa` over each question's own sentences).

`grkd` is its preset lists: pairs, and x.3 each candidate against all below it in one softmax; `grkd_pairs` and
`grkd_softmax` are either alone. The preset was chosen on validation queries before this run (LOG.md). On an order
without ties `grkd_softmax` is `plackett_luce`, and so ListMLE, up to a factor; `ranknet` is `grkd_pairs` up to one.
`kd_z` is `kd` on z-scores; `plackett_luce_top5` counts the first five places; `pld` ranks ties by index.

Bold: the best of its column. `*`: worse than the best, `+`: better than all others (paired bootstrap over queries,
p < .05 after Holm's correction over the methods of the column)."""

_SETTLED = """\
A pick is settled if the next lower and higher learning rate and the next lower and higher setting were tried and are
worse on the validation queries. At an end: it has the lowest or highest learning rate, or setting, of its trials, so a
better one may lie beyond. Where scores and warped scores are to a method the full order, the pick is counted once.

"""
Values = dict[tuple[str, str], NDArray[np.float64]]  # (method, kind) -> mean over seeds, per query


def write_page(results: Path, page: Path) -> None:
    """Write the page; the same results give the same bytes."""
    found = [read_json(path) for path in sorted(results.glob("*.json"))]
    where = {_where(one[name]) for one in found for name in ("environment", "continued") if name in one}
    made = "; ".join(sorted(where))
    parts = [
        "# Small rankers: which method, by what the teacher gives",
        f"Made by `python -m benchmarks.lists table` from benchmarks/results/lists/ ({made}).",
        _INTRODUCTION,
        *_not_measured({one["set"] for one in found}),
        "## Targets\n\n" + targets(found),
        "## Over the sets\n\n" + over_sets(found),
        *(f"## {one['set']}\n\n{section(one)}" for one in found),
        "## How settled the search is\n\n" + _SETTLED + settled_picks(found),
    ]
    write_text(page, "\n\n".join(parts) + "\n")


def _where(environment: dict[str, Any]) -> str:
    """Date, hardware and version of a set's run."""
    machine = environment["gpu"] or environment["cpu"]
    return f"{environment['date'][:10]}, {machine}, PyTorch {environment['torch']}"


def _not_measured(there: set[str]) -> list[str]:
    missing = [f"`{name}`" for name in SETS if name not in there]
    return [f"Not measured yet, though the command knows them: {', '.join(missing)}."] if missing else []


def values(one: dict[str, Any]) -> Values:
    """Per query, the mean over seeds."""
    return {(row["method"], row["kind"]): np.mean(row["ndcg10"], axis=0) for row in one["rows"]}


def section(one: dict[str, Any]) -> str:
    """The table of a set."""
    found, count = values(one), one["counts"]
    shown = [kind for kind in KINDS if any(other == kind for _, other in found)]
    methods = list(dict.fromkeys(method for method, _ in found))
    cells = {kind: column(found, kind) for kind in shown}
    lines = [["", *(KINDS[kind] for kind in shown)], ["---"] + ["---:"] * len(shown)]
    lines += [[f"`{method}`", *(cells[kind].get(method, "-") for kind in shown)] for method in methods]
    notes = [
        f"{count['train']} training, {count['validation']} validation and {one['test_with_relevant']} test queries, "
        f"{count['documents']} documents; {one['steps']} steps of 32 queries."
    ]
    settled = sum(each["settled"] for each in one["search"])
    notes.append(f"At most {one['trials']} trials; {settled} of {len(one['search'])} picks are settled.")
    if one["teacher"] is not None:
        notes.append(f"The teacher's own order of its 32 candidates: {100 * one['teacher']:.1f}.")
    if (OURS, "votes") in found:
        notes.append(f"`{OURS}` on the votes of the two teachers: {100 * found[OURS, 'votes'].mean():.1f}.")
    return " ".join(notes) + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def column(found: Values, kind: str) -> dict[str, str]:
    """method -> its cell in a column."""
    own = {method: value for (method, other), value in found.items() if other == kind}
    best = max(own, key=lambda method: float(own[method].mean()))
    others = [method for method in own if method != best]
    tests = [paired_bootstrap(own[method], own[best]) for method in others]
    worse = {method: p < 0.05 for method, p in zip(others, holm([test.p for test in tests]), strict=True)}
    mark = "+" if worse and all(worse.values()) else ""
    cells = {method: f"{100 * own[method].mean():.1f}{'*' if worse[method] else ''}" for method in others}
    return {best: f"**{100 * own[best].mean():.1f}**{mark}", **cells}


def targets(sets: list[dict[str, Any]]) -> str:
    """Per set: the preset and its pairs alone against `plackett_luce` on every kind of order, and against the best
    other method if scores are given. What is missed stands first."""
    outcomes = [one for found in sets for ours in (OURS, BEFORE) for one in _outcomes(found, ours)]
    outcomes.sort(key=lambda one: (one.ours != OURS, one.reached, one.test.difference))
    lines = [["", "set", "teacher", "against", "difference", "95 % interval", "p", ""]]
    lines.append(["---"] * 4 + ["---:"] * 3 + ["---"])
    lines += [one.line() for one in outcomes]
    text = (
        "Set before: with an order of any kind `grkd` (preset lists) significantly better than or level with a "
        "tie-aware Plackett-Luce; with full scores at most .3 points behind the best other method. `grkd_pairs`, the "
        "preset before, stands beside it. Level means p of .05 or more; p is of this comparison alone, over "
        "queries. What is missed stands first."
    )
    counted = [
        f"`{ours}` misses {len(own) - sum(own)} of {len(own)} and reaches {sum(own)}"
        for ours in (OURS, BEFORE)
        if (own := [one.reached for one in outcomes if one.ours == ours])
    ]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"**{'; '.join(counted)}.** {text}\n\n{table}"


@dataclass(frozen=True)
class _Outcome:
    """A target on one set."""

    ours: str
    name: str
    kind: str
    rival: str
    test: PairedDifference
    reached: bool

    def line(self) -> list[str]:
        test, interval = self.test, f"[{100 * self.test.low:+.1f}, {100 * self.test.high:+.1f}]"
        names = [f"`{self.ours}`", self.name, KINDS[self.kind], f"`{self.rival}`"]
        outcome = "reached" if self.reached else "missed"
        return [*names, f"{100 * test.difference:+.2f}", interval, f"{test.p:.3f}", outcome]


def _outcomes(one: dict[str, Any], ours: str) -> Iterator[_Outcome]:
    found = values(one)
    for kind in PARTIAL:
        if (ours, kind) in found:
            test = paired_bootstrap(found[ours, kind], found[RIVAL, kind])
            yield _Outcome(ours, one["set"], kind, RIVAL, test, test.p >= 0.05 or test.difference > 0)
    if (ours, "scores") in found:
        rivals = [name for name, kind in found if kind == "scores" and not name.startswith(OURS)]
        best = max(rivals, key=lambda method: float(found[method, "scores"].mean()))
        test = paired_bootstrap(found[ours, "scores"], found[best, "scores"])
        yield _Outcome(ours, one["set"], "scores", best, test, test.difference >= -0.003)


def over_sets(sets: list[dict[str, Any]]) -> str:
    """Per method and kind of teacher: the mean over the sets, and on how many no other is significantly better."""
    found = [values(one) for one in sets]
    shown = [kind for kind in KINDS if all(any(other == kind for _, other in one) for one in found)]
    methods = list(dict.fromkeys(method for method, _ in found[0]))
    cells = {kind: [column(one, kind) for one in found] for kind in shown}
    lines = [["", *(KINDS[kind] for kind in shown)], ["---"] + ["---:"] * len(shown)]
    for method in methods:
        line = [f"`{method}`"]
        for kind in shown:
            own = [one[method, kind].mean() for one in found if (method, kind) in one]
            level = sum(not one[method].endswith("*") or one[method].startswith("**") for one in cells[kind])
            line.append(f"{100 * np.mean(own):.1f} ({level})")
        lines.append(line)
    text = (
        f"Means over the {len(sets)} sets, and in brackets on how many of them the method is the best or not told "
        "apart from it. The sets differ in size and difficulty, so the means are no more than an overview."
    )
    return text + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def settled_picks(sets: list[dict[str, Any]]) -> str:
    """Per method: picks, how many are settled, and the learning rates and settings they chose."""
    names = ("method", "picks", "settled", "rate at an end", "setting at an end", "learning rates", "settings")
    lines = [list(names), ["---", *["---:"] * 4, "---", "---"]]
    searched = [one for found in sets for one in found["search"]]
    for name in dict.fromkeys(one["method"] for one in searched):
        own = [one for one in searched if one["method"] == name]
        best = [max(one["trials"], key=lambda trial: float(trial[2])) for one in own]
        ends = [sum(_at_end(one, pick, axis) for one, pick in zip(own, best, strict=True)) for axis in (0, 1)]
        ranges = [_range([trial[axis] for trial in best]) for axis in (0, 1)]
        counts = [len(own), sum(one["settled"] for one in own), *ends]
        lines.append([f"`{name}`", *map(str, counts), *ranges])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _at_end(one: dict[str, Any], pick: list[float], axis: int) -> bool:
    """Whether a pick has the lowest or highest value that was tried."""
    tried = [trial[axis] for trial in one["trials"]]
    return pick[axis] in (min(tried), max(tried))


def _range(values: list[float]) -> str:
    """Lowest, median and highest."""
    return f"{min(values):g} to {max(values):g}, median {np.median(values):g}"
