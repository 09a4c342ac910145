"""Which method teaches a small ranker best, by what its teacher gives: the comparison behind docs/results-lists.md.

    python -m benchmarks.lists prepare FOLDER --data DATA --encoder ENCODER   # texts -> FOLDER/<set>.npz
    python -m benchmarks.lists run FOLDER --out OUT [--only wikiqa,cranfield] [--steps N] [--seeds N]
    python -m benchmarks.lists keep OUT      # figures -> benchmarks/results/lists/
    python -m benchmarks.lists table         # benchmarks/results/lists/ -> docs/results-lists.md

Students: towers of 64 dimensions on words, trained together (benchmarks/_lists_towers.py). Every method has 12 trials:
its whole grid of 3 learning rates and 4 settings, measured by NDCG@10 on validation queries, which neither students
nor teacher were trained on; then five seeds at the best settings, measured on the test queries.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import lists_table
from benchmarks._lists_data import KINDS, SETS, ListSet, counts, load, prepared, said
from benchmarks._lists_towers import Teacher, Tower, ndcg10, trained
from grkd.files import read_json, write_json, write_text
from grkd.rankers.combine import votes
from grkd.run.folder import environment

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "lists", ROOT / "docs" / "results-lists.md"
RATES = (0.003, 0.01, 0.03)
# label -> method, fixed options, and the option that the search sets.
METHODS: dict[str, tuple[str, dict[str, Any], str, tuple[Any, ...]]] = {
    "grkd": ("grkd", {"preset": "lists"}, "pairs.tau", (0.5, 1.0, 2.0, 4.0)),
    "kd": ("kd", {}, "temperature", (0.5, 1.0, 2.0, 4.0)),
    "kd_z": ("kd", {"standardize": True}, "temperature", (0.25, 0.5, 1.0, 2.0)),
    "dist": ("dist", {"intra_class_weight": 0.0, "label_weight": 0.0}, "temperature", (0.5, 1.0, 2.0, 4.0)),
    "margin_mse": ("margin_mse", {"pairs": "all"}, "scale", (0.5, 1.0, 2.0, 4.0)),
    "ranknet": ("ranknet", {}, "sigma", (0.25, 0.5, 1.0, 2.0)),
    "lambdaloss": ("lambdaloss", {}, "sigma", (0.25, 0.5, 1.0, 2.0)),
    "pld": ("pld", {"label_first": False}, "temperature", (0.5, 1.0, 2.0, 4.0)),
    "plackett_luce": ("plackett_luce", {}, "tau", (0.5, 1.0, 2.0, 4.0)),
    "plackett_luce_top5": ("plackett_luce", {"top_k": 5}, "tau", (0.5, 1.0, 2.0, 4.0)),
}


def tower(label: str, kind: str, value: Any, rate: float) -> Tower:
    method, fixed, option, _ = METHODS[label]
    return Tower(label=label, method=method, options={**fixed, option: value}, learning_rate=rate, kind=kind)


def teachers(lists: ListSet) -> dict[str, Teacher]:
    """By kind; "votes": the two teachers' votes on pairs, for methods that read them."""
    found = {kind: Teacher(**dict(zip(("order", "scores"), said(lists, kind), strict=True))) for kind in KINDS}
    cast = votes([lists.scores.astype(np.float64), lists.bm25.astype(np.float64)])
    pair = torch.from_numpy(cast.share).float(), torch.from_numpy(cast.weight).float()
    return {**found, "votes": Teacher(order=found["two"].order, scores=found["two"].scores, votes=pair)}


def run_set(path: Path, out: Path, *, steps: int, seeds: int, device: torch.device, kinds: tuple[str, ...]) -> None:
    """The search and the final runs of one set; what is on disk already is kept."""
    lists, target = load(path), out / f"{path.stem}.json"
    if target.exists():
        print(f"{path.stem}: done before, kept", flush=True)
        return
    heard, since = teachers(lists), time.time()
    labels = [(label, kind) for label in METHODS for kind in kinds]
    labels += [("grkd", "votes")] if "two" in kinds else []
    tried = [
        tower(label, kind, value, rate)
        for label, kind in labels
        for value, rate in itertools.product(METHODS[label][3], RATES)
    ]
    fit, validation, test = (np.flatnonzero(lists.part == number) for number in range(3))
    train = np.concatenate([fit, validation])
    weights = trained(lists, tried, heard, queries=fit, steps=steps, seed=0, device=device)
    values = np.nanmean(ndcg10(lists, weights, validation, device=device), -1)
    del weights
    search = [
        {
            "method": one.label,
            "kind": one.kind,
            "options": one.options,
            "rate": one.learning_rate,
            "value": float(value),
        }
        for one, value in zip(tried, values, strict=True)
    ]
    print(f"{path.stem}: {len(tried)} trials in {time.time() - since:.0f} s", flush=True)
    best = [tried[max(_of(tried, *pair), key=values.__getitem__)] for pair in labels]
    finals = []
    for seed in range(seeds):
        weights = trained(lists, best, heard, queries=train, steps=steps, seed=seed, device=device)
        finals.append(ndcg10(lists, weights, test, device=device))
        print(f"{path.stem}: seed {seed} after {time.time() - since:.0f} s", flush=True)
    reached = np.stack(finals)  # [seeds, towers, queries]
    known = ~np.isnan(reached[0, 0])
    rows = [
        {"method": one.label, "kind": one.kind, "options": one.options, "rate": one.learning_rate,
         "ndcg10": [[round(float(v), 4) for v in seed] for seed in reached[:, number][:, known]]}
        for number, one in enumerate(best)
    ]  # fmt: skip
    write_json(target, {
        "set": path.stem, "counts": counts(lists) | {"test_with_relevant": int(known.sum())}, "steps": steps,
        "seconds": round(time.time() - since), "search": search, "rows": rows,
        "teacher": _teacher_value(lists, test),
    })  # fmt: skip
    for row in rows:
        print(f"{path.stem} {row['kind']:8} {row['method']:20} {100 * np.mean(row['ndcg10']):6.2f}", flush=True)


def keep(folder: Path) -> None:
    """The figures of a run without places on disk: per query the mean over seeds, per seed the mean over queries."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.json")):
        found = read_json(path)
        for row in found.get("rows", []):
            seeds = np.array(row["ndcg10"])
            row["by_seed"] = [round(float(value), 5) for value in seeds.mean(1)]
            row["ndcg10"] = [[round(float(value), 4) for value in seeds.mean(0)]]
        write_text(RESULTS / path.name, json.dumps(found, separators=(",", ":")) + "\n")


def _of(tried: list[Tower], label: str, kind: str) -> list[int]:
    return [number for number, one in enumerate(tried) if (one.label, one.kind) == (label, kind)]


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
    if options.action == "run":
        write_json(out / "environment.json", environment("python -m benchmarks.lists run"))
    for name in options.only.split(","):
        try:
            if options.action == "prepare":
                if not (options.folder / f"{name}.npz").exists():
                    options.folder.mkdir(parents=True, exist_ok=True)
                    np.savez_compressed(options.folder / f"{name}.npz", **prepared(name, options.data, options.encoder))
                    print(f"{name}: prepared", flush=True)
            else:
                kinds = tuple(options.kinds.split(","))
                run_set(
                    options.folder / f"{name}.npz",
                    out,
                    steps=options.steps,
                    seeds=options.seeds,
                    device=where,
                    kinds=kinds,
                )
        except Exception as error:  # one set's failure leaves the others
            print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
