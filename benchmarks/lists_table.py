"""docs/results-lists.md from the kept figures of the comparison on lists: tables, paired tests, targets, edges."""

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
(a factor of 2 apart): six coarse ones, then around the best, measured on validation queries. Figures are NDCG@10 in %
on test queries, means of five seeds, over the whole corpus (of `wikiqa` over each question's own sentences).

`grkd` is its preset lists: pairs, and x.3 each candidate against all below it in one softmax; `grkd_pairs` and
`grkd_softmax` are either alone. The preset was chosen on validation queries before this run (LOG.md). On an order
without ties `grkd_softmax` is `plackett_luce`, and so ListMLE, up to a factor; `ranknet` is `grkd_pairs` up to one.
`kd_z` is `kd` on z-scores; `plackett_luce_top5` counts the first five places; `pld` ranks ties by index.

Bold: the best of its column. `*`: worse than the best, `+`: better than all others (paired bootstrap over queries,
p < .05 after Holm's correction over the methods of the column)."""

_IN_FOUND_ORDER = """\
An index of these candidates is the place at which BM25 and the encoder found them, so that `pld` knows more than the
others with partial orders. The command shuffles candidates since."""

_SETTLED = """\
A pick is settled if the next lower and higher learning rate and the next lower and higher setting were tried and are
worse on the validation queries. At an end: it has the lowest or highest learning rate, or setting, of its 12 trials, so
a better one may lie beyond. Where scores and warped scores are to a method the full order, the pick is counted once.

"""
Values = dict[tuple[str, str], NDArray[np.float64]]  # (method, kind) -> mean over seeds, per query


def write_page(results: Path, page: Path) -> None:
    """Write the page; the same results give the same bytes."""
    found = [read_json(path) for path in sorted(results.glob("*.json"))]
    where = {_where(one["environment"]) for one in found}
    made = "; ".join(sorted(where))
    parts = [
        "# Small rankers: which method, by what the teacher gives",
        f"Made by `python -m benchmarks.lists table` from benchmarks/results/lists/ ({made}).",
        _INTRODUCTION,
        *([] if all(one.get("shuffled") for one in found) else [_IN_FOUND_ORDER]),
        *_not_measured({one["set"] for one in found}),
        "## Targets\n\n" + targets(found),
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
    other method if scores are given."""
    lines = [["set", "teacher", "", "against", "difference", "95 % interval", "p", ""]]
    lines.append(["---"] * 4 + ["---:"] * 3 + ["---"])
    for one in sets:
        found = values(one)
        for ours in (OURS, BEFORE):
            for kind in PARTIAL:
                if (ours, kind) in found:
                    test = paired_bootstrap(found[ours, kind], found[RIVAL, kind])
                    reached = "reached" if test.p >= 0.05 or test.difference > 0 else "missed"
                    lines.append(_line(one["set"], kind, ours, RIVAL, test, reached))
            if (ours, "scores") in found:
                rivals = [name for name, kind in found if kind == "scores" and not name.startswith(OURS)]
                best = max(rivals, key=lambda method: float(found[method, "scores"].mean()))
                test = paired_bootstrap(found[ours, "scores"], found[best, "scores"])
                reached = "reached" if test.difference >= -0.003 else "missed"
                lines.append(_line(one["set"], "scores", ours, best, test, reached))
    text = (
        "Set before: with an order of any kind `grkd` (preset lists) significantly better than or level with a "
        "tie-aware Plackett-Luce; with full scores at most .3 points behind the best other method. `grkd_pairs`, the "
        "preset before this run, stands beside it. Level means p of .05 or more; p is of this comparison alone, over "
        "queries."
    )
    return text + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(name: str, kind: str, ours: str, rival: str, test: PairedDifference, outcome: str) -> list[str]:
    interval = f"[{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
    return [
        name,
        KINDS[kind],
        f"`{ours}`",
        f"`{rival}`",
        f"{100 * test.difference:+.2f}",
        interval,
        f"{test.p:.3f}",
        outcome,
    ]


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
