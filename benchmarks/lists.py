"""Which method teaches a small ranker best, by what its teacher gives: the comparison behind docs/results-lists.md.

    python -m benchmarks.lists prepare FOLDER --data DATA --encoder ENCODER   # texts -> FOLDER/<set>.npz
    python -m benchmarks.lists run FOLDER --out OUT [--only wikiqa,cranfield] [--steps N] [--methods grkd,kd]
    python -m benchmarks.lists run FOLDER --out OUT --trials 20 --earlier benchmarks/results/lists   # goes on
    python -m benchmarks.lists keep OUT      # figures -> benchmarks/results/lists/
    python -m benchmarks.lists table         # benchmarks/results/lists/ -> docs/results-lists.md

Students: towers of 64 dimensions on words, trained together (benchmarks/_lists_towers.py). Every method has 12 trials
over learning rates and one setting (benchmarks/_lists_search.py: a coarse pass, then around its best), measured by
NDCG@10 on validation queries, which neither students nor teacher were trained on; then five seeds at the best
settings, measured on the test queries. A set that is on disk already is left as it is. With more --trials a search
goes on while its best point stands at an edge of what was tried; --earlier has the trials of a run with fewer; a
final run is repeated if its settings change.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import lists_table
from benchmarks._lists_data import KINDS, SETS, ListSet, counts, load, prepared, said
from benchmarks._lists_records import NOTHING, Earlier, Line, keep, per_query, searched, with_relevant
from benchmarks._lists_search import RATES, SETTINGS, TRIALS, Point, first_points, next_points
from benchmarks._lists_towers import Teacher, Tower, ndcg10, teacher_value, trained
from grkd import objectives
from grkd.environment import environment
from grkd.files import write_json
from grkd.rankers.combine import votes

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "lists", ROOT / "docs" / "results-lists.md"


@dataclass(frozen=True)
class Entry:
    """A method, its fixed options, the option that is searched, and its first two values.

    scale: the option does no more than divide (-1) or multiply (1) the student's scores. Towers with different values
    of it then share one call of the loss, on scores that are scaled before.
    """

    method: str
    fixed: dict[str, Any]
    option: str
    first: tuple[float, float]
    scale: int = 0

    def options(self, value: float) -> dict[str, Any]:
        return {**self.fixed, self.option: value}


_UNLABELLED = {"intra_class_weight": 0.0, "label_weight": 0.0}
_ORDER_ALONE: dict[str, Any] = {"anchor": [], "alpha_shape": "constant"}
METHODS: dict[str, Entry] = {
    "grkd": Entry("grkd", {"preset": "lists"}, "pairs.tau", (1.0, 4.0), -1),
    "grkd_pairs": Entry("grkd", {**_ORDER_ALONE, "ranking": [{"part": "pairs"}]}, "pairs.tau", (1.0, 4.0), -1),
    "grkd_softmax": Entry(
        "grkd", {**_ORDER_ALONE, "ranking": [{"part": "pairs", "pool": "softmax"}]}, "pairs.tau", (1.0, 4.0), -1
    ),
    "kd": Entry("kd", {}, "temperature", (1.0, 4.0)),
    "kd_z": Entry("kd", {"standardize": True}, "temperature", (0.5, 2.0)),
    "dist": Entry("dist", _UNLABELLED, "temperature", (1.0, 4.0)),
    "margin_mse": Entry("margin_mse", {"pairs": "all"}, "scale", (1.0, 4.0)),
    "ranknet": Entry("ranknet", {}, "sigma", (0.25, 1.0), 1),
    "lambdaloss": Entry("lambdaloss", {}, "sigma", (0.25, 1.0), 1),
    "pld": Entry("pld", {"label_first": False}, "temperature", (1.0, 4.0)),
    "plackett_luce": Entry("plackett_luce", {}, "tau", (1.0, 4.0), -1),
    "plackett_luce_top5": Entry("plackett_luce", {"top_k": 5}, "tau", (1.0, 4.0), -1),
}


def tower(line: Line, point: Point) -> Tower:
    entry, value = METHODS[line[0]], SETTINGS[point[1]]
    return Tower(
        method=entry.method,
        options=entry.fixed if entry.scale else entry.options(value),
        scale=value**entry.scale,
        learning_rate=RATES[point[0]],
        kind=line[1],
    )


def teachers(lists: ListSet) -> dict[str, Teacher]:
    """By kind; "votes": the two teachers' votes on pairs, for methods that read them."""
    found = {kind: Teacher(**dict(zip(("order", "scores"), said(lists, kind), strict=True))) for kind in KINDS}
    cast = votes([lists.scores.astype(np.float64), lists.bm25.astype(np.float64)])
    pair = torch.from_numpy(cast.share).float(), torch.from_numpy(cast.weight).float()
    return {**found, "votes": Teacher(order=found["two"].order, scores=found["two"].scores, votes=pair)}


def lines_of(kinds: Sequence[str], labels: Sequence[str]) -> dict[Line, Line]:
    """Every line of the table -> the one that is trained for it.

    To a method that reads the order alone, scores and warped scores are the full order: it is trained once.
    """
    found = {(label, kind): (label, kind) for label in labels for kind in kinds}
    for label, kind in found:
        entry = METHODS[label]
        order_alone = objectives.load(entry.method, **entry.fixed).least_teacher != "scores"
        if order_alone and kind in ("scores", "warped") and "order" in kinds:
            found[label, kind] = (label, "order")
    with_votes = "two" in kinds and "grkd" in labels
    return found | ({("grkd", "votes"): ("grkd", "votes")} if with_votes else {})


def run_set(
    path: Path,
    out: Path,
    *,
    steps: int,
    seeds: int,
    device: torch.device,
    kinds: Sequence[str],
    labels: Sequence[str],
    most: int = TRIALS,
    earlier: Path | None = None,
) -> None:
    """The search and the final runs of one set; what is on disk already is kept.

    most: trials of a search whose best is at an edge. earlier: folder with the results of a run with fewer.
    """
    lists, target = load(path), out / f"{path.stem}.json"
    if target.exists():
        print(f"{path.stem}: done before, kept", flush=True)
        return
    since, lines = time.time(), lines_of(kinds, labels)
    before = NOTHING if earlier is None else Earlier.read(earlier / path.name.replace(".npz", ".json"), steps)
    work = _Work(lists=lists, heard=teachers(lists), name=path.stem, steps=steps, device=device)
    tried = work.search(list(dict.fromkeys(lines.values())), before, most)
    best = {line: max(done, key=done.__getitem__) for line, done in tried.items()}
    new = {line: point for line, point in best.items() if not before.has(line, settings_of(line, point))}
    reached = work.final(new, seeds) if new else {}
    test = np.flatnonzero(lists.part == 2)
    rows = [
        {"method": label, "kind": kind, "trained": source[1], **settings_of(source, best[source])}
        | (per_query(reached[source], lists.grades[test]) if source in reached else before.values(source))
        for (label, kind), source in lines.items()
    ]
    write_json(target, {
        "set": path.stem, "counts": counts(lists), "steps": steps, "trials": most, "shuffled": True,
        "seconds": round(time.time() - since), "environment": environment("python -m benchmarks.lists run"),
        **({} if before.environment is None else {"continued": before.environment}),
        "search": [searched(line, done) for line, done in tried.items()], "rows": rows,
        "test_with_relevant": int(with_relevant(lists.grades[test]).sum()), "teacher": teacher_value(lists, test),
    })  # fmt: skip
    for row in rows:
        if row["kind"] == row["trained"]:
            print(f"{path.stem} {row['kind']:8} {row['method']:20} {100 * np.mean(row['ndcg10']):6.2f}", flush=True)
    print(f"{path.stem}: done after {time.time() - since:.0f} s, {len(new)} of {len(best)} trained", flush=True)


def settings_of(line: Line, point: Point) -> dict[str, Any]:
    """A point of the search as it is written down."""
    return {"options": METHODS[line[0]].options(SETTINGS[point[1]]), "rate": RATES[point[0]]}


@dataclass(frozen=True, kw_only=True)
class _Work:
    """The trainings of one set. heard: its teachers by kind."""

    lists: ListSet
    heard: dict[str, Teacher]
    name: str
    steps: int
    device: torch.device

    def search(self, lines: Sequence[Line], before: Earlier, most: int) -> dict[Line, dict[Point, float]]:
        """Per line, the trials and their NDCG@10 on validation queries; those of an earlier run are not repeated."""
        fit, validation = (np.flatnonzero(self.lists.part == number) for number in (0, 1))
        since, tried = time.time(), {line: dict(before.tried.get(line, {})) for line in lines}
        while asked := [
            (line, point)
            for line, done in tried.items()
            for point in next_points(done, first_points(METHODS[line[0]].first), most)
        ]:
            weights = self._trained([tower(*one) for one in asked], fit, [0])
            values = np.nanmean(ndcg10(self.lists, weights[0], validation, device=self.device), -1)
            del weights
            for (line, point), value in zip(asked, values, strict=True):
                tried[line][point] = float(value)
            print(f"{self.name}: {len(asked)} trials, {time.time() - since:.0f} s", flush=True)
        return tried

    def final(self, chosen: dict[Line, Point], seeds: int) -> dict[Line, np.ndarray]:
        """Per line, NDCG@10 of its final runs on test queries, [seeds, queries]."""
        test, train = np.flatnonzero(self.lists.part == 2), np.flatnonzero(self.lists.part < 2)
        weights = self._trained([tower(*one) for one in chosen.items()], train, range(seeds))
        reached = np.stack([ndcg10(self.lists, own, test, device=self.device) for own in weights])
        return {line: reached[:, at] for at, line in enumerate(chosen)}

    def _trained(self, towers: Sequence[Tower], queries: np.ndarray, seeds: Sequence[int]) -> torch.Tensor:
        options: dict[str, Any] = {"queries": queries, "seeds": seeds, "steps": self.steps, "device": self.device}
        return trained(self.lists, towers, self.heard, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("prepare", "run", "keep", "table"))
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs/lists"))
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data")
    parser.add_argument("--encoder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default=",".join(SETS))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--earlier", type=Path)
    options = parser.parse_args()
    if options.action == "table":
        lists_table.write_page(RESULTS, PAGE)
        return
    if options.action == "keep":
        keep(options.folder, RESULTS)
        return
    out = options.out or options.folder
    out.mkdir(parents=True, exist_ok=True)
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    for name in options.only.split(","):
        try:
            if options.action == "prepare":
                if not (options.folder / f"{name}.npz").exists():
                    options.folder.mkdir(parents=True, exist_ok=True)
                    np.savez_compressed(options.folder / f"{name}.npz", **prepared(name, options.data, options.encoder))
                    print(f"{name}: prepared", flush=True)
            else:
                run_set(
                    options.folder / f"{name}.npz",
                    out,
                    steps=options.steps,
                    seeds=options.seeds,
                    device=where,
                    kinds=options.kinds.split(","),
                    labels=options.methods.split(","),
                    most=options.trials,
                    earlier=options.earlier,
                )
        except Exception as error:  # one set's failure leaves the others
            print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
