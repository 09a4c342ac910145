"""docs/results.md from the kept results of the arithmetic comparison: table, paired tests over questions, search."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grkd.compare.records import read_search
from grkd.files import read_json, write_text
from grkd.reports import markdown_table, read_run
from grkd.statistics import holm, paired_bootstrap

PARTS = ("mawps", "asdiv", "gsm8k")
_OURS = "grkd"


def write_page(results: Path, page: Path) -> None:
    """Write the page; the same results give the same bytes."""
    run, environment = read_run(results), read_json(results / "environment.json")
    outcomes, search = read_json(results / "outcomes.json"), read_search(results / "search.json")
    correct = per_method(outcomes["correct"])
    made = f"{environment['date'][:10]}, {environment['gpu'] or environment['cpu']}, PyTorch {environment['torch']}"
    source = f"Made by `python -m benchmarks.arithmetic table` from benchmarks/results/arithmetic/ ({made})."
    parts = [
        f"# {run.title}\n\n{source}",
        markdown_table(run).rstrip(),
        "## By source of the problems\n\nExact match in %, means over seeds.\n\n"
        + by_source(outcomes["questions"], correct),
        "## Paired over questions\n\n" + paired(correct),
        "## What was tried for each method\n\n" + tries(search),
    ]
    write_text(page, "\n\n".join(parts) + "\n")


def per_method(packed: dict[str, str]) -> dict[str, NDArray[np.float64]]:
    """label -> the share of its seeds that answer each question right."""
    found: dict[str, list[NDArray[np.float64]]] = {}
    for name, digits in packed.items():
        label = name.rsplit("-seed", 1)[0]
        found.setdefault(label, []).append(np.array([int(digit) for digit in digits], dtype=np.float64))
    return {label: np.mean(rows, axis=0) for label, rows in found.items()}


def by_source(questions: list[str], correct: dict[str, NDArray[np.float64]]) -> str:
    """A row a method: its exact match on each source's questions, and how many those are."""
    masks = {part: np.array([question.startswith(part) for question in questions]) for part in PARTS}
    lines = [[""] + [f"{part} ({mask.sum()})" for part, mask in masks.items()], ["---"] + ["---:"] * len(PARTS)]
    for label, values in correct.items():
        lines.append([label] + [f"{100 * values[mask].mean():.1f}" if mask.any() else "-" for mask in masks.values()])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def paired(correct: dict[str, NDArray[np.float64]]) -> str:
    """Every method against the best that is not ours: difference, interval, p after Holm's correction."""
    methods = [label for label in correct if label not in ("before", "teacher")]
    others = [label for label in methods if not label.startswith(_OURS)]
    best = max(others, key=lambda label: float(correct[label].mean()))
    compared = [label for label in methods if label != best]
    tests = [paired_bootstrap(correct[label], correct[best]) for label in compared]
    adjusted = holm([test.p for test in tests])
    lines = [
        f"Differences in exact match (points) to `{best}`, the best of the baselines; resampled over questions, each",
        "question's value the mean over seeds; p after Holm's correction.\n",
        "| method | difference | 95 % interval | p | |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for label, test, p in zip(compared, tests, adjusted, strict=True):
        verdict = "" if p >= 0.05 else "better" if test.difference > 0 else "worse"
        interval = f"[{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
        lines.append(f"| {label} | {100 * test.difference:+.1f} | {interval} | {p:.3f} | {verdict} |")
    return "\n".join(lines)


def tries(search: list[dict[str, Any]]) -> str:
    """Every trial of the search with its value on the validation questions."""
    lines = ["| method | settings | value |", "| --- | --- | ---: |"]
    for record in search:
        shown = ", ".join(f"{name} {value}" for name, value in record["settings"].items())
        value = "failed" if record["value"] is None else f"{record['value']:.4f}"
        lines.append(f"| {record['method']} | {shown} | {value} |")
    return "\n".join(lines)
