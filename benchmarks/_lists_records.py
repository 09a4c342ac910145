"""The comparison on lists as it is written down: trials, rows of the tables, and what a longer search goes on from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._lists_search import RATES, SETTINGS, Point, settled
from grkd.files import read_json, write_text

Line = tuple[str, str]  # label of a method, kind of teacher


@dataclass(frozen=True)
class Earlier:
    """Of an earlier run of a set: its trials, its rows by method and kind, and its environment."""

    tried: dict[Line, dict[Point, float]]
    rows: dict[Line, dict[str, Any]]
    environment: dict[str, Any] | None

    @classmethod
    def read(cls, path: Path, steps: int) -> "Earlier":
        """Empty without the file. Raises ValueError for a run with another number of steps."""
        if not path.is_file():
            return NOTHING
        found = read_json(path)
        if found["steps"] != steps or not found.get("shuffled"):
            raise ValueError(f"{path} is of another comparison ({found['steps']} steps)")
        tried = {
            (one["method"], one["kind"]): {
                (RATES.index(rate), SETTINGS.index(setting)): value for rate, setting, value in one["trials"]
            }
            for one in found["search"]
        }
        return cls(tried, {(row["method"], row["kind"]): row for row in found["rows"]}, found["environment"])

    def has(self, line: Line, settings: dict[str, Any]) -> bool:
        """Whether its final runs of this line had these settings."""
        return line in self.rows and {name: self.rows[line][name] for name in settings} == settings

    def values(self, line: Line) -> dict[str, Any]:
        """What a row holds of its final runs."""
        return {name: self.rows[line][name] for name in ("by_seed", "ndcg10") if name in self.rows[line]}


NOTHING = Earlier({}, {}, None)


def searched(line: Line, done: dict[Point, float]) -> dict[str, Any]:
    """The trials of a line, and whether its best is at no edge of them."""
    trials = [[RATES[rate], SETTINGS[setting], round(value, 5)] for (rate, setting), value in done.items()]
    return {"method": line[0], "kind": line[1], "settled": settled(done), "trials": trials}


def with_relevant(grades: np.ndarray) -> np.ndarray:
    """Which queries have a relevant document. grades: [queries, documents]."""
    return np.asarray((grades > 0).any(-1))


def per_query(reached: np.ndarray, grades: np.ndarray) -> dict[str, Any]:
    """NDCG@10 per seed and query with a relevant document. reached: [seeds, queries]."""
    return {"ndcg10": [[round(float(value), 4) for value in seed] for seed in reached[:, with_relevant(grades)]]}


def keep(folder: Path, results: Path) -> None:
    """The figures of a run for the repository: per query the mean over seeds, per seed the mean over queries."""
    results.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*.json")):
        found = read_json(path)
        for row in found["rows"]:
            if "by_seed" in row:  # of an earlier run, kept before
                continue
            seeds = np.array(row["ndcg10"])
            row["by_seed"] = [round(float(value), 5) for value in seeds.mean(1)]
            row["ndcg10"] = [[round(float(value), 4) for value in seeds.mean(0)]]
        write_text(results / path.name, json.dumps(found, separators=(",", ":")) + "\n")
