"""Which method teaches a small ranker best, by what its teacher gives: the comparison behind docs/results-lists.md.

    python -m benchmarks.lists prepare FOLDER --data DATA --encoder ENCODER   # texts -> FOLDER/<set>.npz
    python -m benchmarks.lists run FOLDER --out OUT [--only wikiqa,cranfield] [--steps N] [--methods grkd,kd]
    python -m benchmarks.lists keep OUT      # figures -> benchmarks/results/lists/
    python -m benchmarks.lists table         # benchmarks/results/lists/ -> docs/results-lists.md

Students: towers of 64 dimensions on words, trained together (benchmarks/_lists_towers.py). Every method has 12 trials
over learning rates and one setting (benchmarks/_lists_search.py: a coarse pass, then around its best), measured by
NDCG@10 on validation queries, which neither students nor teacher were trained on; then five seeds at the best
settings, measured on the test queries. A set that is on disk already is left as it is.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import lists_table
from benchmarks._lists_data import KINDS, SETS, ListSet, counts, load, prepared, said
from benchmarks._lists_search import RATES, SETTINGS, TRIALS, Point, first_points, next_points, settled
from benchmarks._lists_towers import Teacher, Tower, ndcg10, trained
from grkd import objectives
from grkd.environment import environment
from grkd.files import read_json, write_json, write_text
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
Line = tuple[str, str]  # label of a method, kind of teacher


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
) -> None:
    """The search and the final runs of one set; what is on disk already is kept."""
    lists, target = load(path), out / f"{path.stem}.json"
    if target.exists():
        print(f"{path.stem}: done before, kept", flush=True)
        return
    heard, since, lines = teachers(lists), time.time(), lines_of(kinds, labels)
    fit, validation, test = (np.flatnonzero(lists.part == number) for number in range(3))
    tried: dict[Line, dict[Point, float]] = {line: {} for line in dict.fromkeys(lines.values())}
    while asked := [
        (line, point)
        for line, done in tried.items()
        for point in next_points(done, first_points(METHODS[line[0]].first))
    ]:
        towers = [tower(*one) for one in asked]
        weights = trained(lists, towers, heard, queries=fit, steps=steps, seeds=[0], device=device)
        values = np.nanmean(ndcg10(lists, weights[0], validation, device=device), -1)
        del weights
        for (line, point), value in zip(asked, values, strict=True):
            tried[line][point] = float(value)
        print(f"{path.stem}: {len(asked)} trials, {time.time() - since:.0f} s", flush=True)
    best = {line: max(done, key=done.__getitem__) for line, done in tried.items()}
    towers = [tower(*one) for one in best.items()]
    train = np.concatenate([fit, validation])
    weights = trained(lists, towers, heard, queries=train, steps=steps, seeds=range(seeds), device=device)
    reached = np.stack([ndcg10(lists, own, test, device=device) for own in weights])  # [seeds, towers, queries]
    write_json(target, {
        "set": path.stem, "counts": counts(lists), "steps": steps, "trials": TRIALS, "shuffled": True,
        "seconds": round(time.time() - since), "environment": environment("python -m benchmarks.lists run"),
        "search": [_searched(line, done) for line, done in tried.items()],
        **_rows(lines, best, reached), "teacher": _teacher_value(lists, test),
    })  # fmt: skip
    for (label, kind), own in zip(best, reached.transpose(1, 0, 2), strict=True):
        print(f"{path.stem} {kind:8} {label:20} {100 * np.nanmean(own):6.2f}", flush=True)
    print(f"{path.stem}: done after {time.time() - since:.0f} s", flush=True)


def _searched(line: Line, done: dict[Point, float]) -> dict[str, Any]:
    """The trials of a line, and whether its best is at no edge of them."""
    trials = [[RATES[rate], SETTINGS[setting], round(value, 5)] for (rate, setting), value in done.items()]
    return {"method": line[0], "kind": line[1], "settled": settled(done), "trials": trials}


def _rows(lines: dict[Line, Line], best: dict[Line, Point], reached: np.ndarray) -> dict[str, Any]:
    """A row per line of the table: the settings it had, and NDCG@10 per seed and query with a relevant document."""
    known = ~np.isnan(reached[0, 0])
    places = {line: number for number, line in enumerate(best)}
    rows = []
    for (label, kind), source in lines.items():
        rate, setting = best[source]
        settings = {"options": METHODS[label].options(SETTINGS[setting]), "rate": RATES[rate]}
        values = [[round(float(value), 4) for value in seed] for seed in reached[:, places[source]][:, known]]
        rows.append({"method": label, "kind": kind, "trained": source[1], **settings, "ndcg10": values})
    return {"rows": rows, "test_with_relevant": int(known.sum())}


def keep(folder: Path) -> None:
    """The figures of a run for the repository: per query the mean over seeds, per seed the mean over queries."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.json")):
        found = read_json(path)
        for row in found["rows"]:
            seeds = np.array(row["ndcg10"])
            row["by_seed"] = [round(float(value), 5) for value in seeds.mean(1)]
            row["ndcg10"] = [[round(float(value), 4) for value in seeds.mean(0)]]
        write_text(RESULTS / path.name, json.dumps(found, separators=(",", ":")) + "\n")


def _teacher_value(lists: ListSet, test: np.ndarray) -> float | None:
    """Mean NDCG@10 of the teacher's order of its 32 candidates as if they were all, if the corpus is ranked."""
    if lists.pool.shape[1]:
        return None
    from benchmarks._lists_towers import _ndcg

    grades = torch.from_numpy(lists.grades[test]).float()
    scores = torch.full(grades.shape, -1e9)
    scores.scatter_(1, torch.from_numpy(lists.candidates[test]).long(), torch.from_numpy(lists.scores[test]))
    return float(np.nanmean(_ndcg(scores.unsqueeze(0), grades).numpy()))


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
    options = parser.parse_args()
    if options.action == "table":
        lists_table.write_page(RESULTS, PAGE)
        return
    if options.action == "keep":
        keep(options.folder)
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
                )
        except Exception as error:  # one set's failure leaves the others
            print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
