"""A run folder with numbers that can be checked by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ACCURACY = {"ce": [0.90, 0.91, 0.92], "kd": [0.93, 0.95, 0.94], "grkd": [0.94, 0.955, 0.951]}
ENVIRONMENT = {
    "grkd": "0.1.0",
    "python": "3.12.1",
    "torch": "2.11.0",
    "transformers": "5.17.0",
    "platform": "Linux",
    "cpu": "a CPU",
    "gpu": None,
    "git_commit": "abc1234",
    "date": "2026-11-21T20:54:11+00:00",
    "command": "grkd run recipes/digits.yaml",
}


def row(method: str, metric: str, value: float | None, seed: int | None = None, **more: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"low": None, "high": None, "steps": None, "seconds": None}
    return {"method": method, "seed": seed, "metric": metric, "value": value, **empty, **more}


def classifier_rows() -> list[dict[str, Any]]:
    rows = [row("teacher", "accuracy", 0.972), row("before", "accuracy", 0.1)]
    for label, values in ACCURACY.items():
        rows += [row(label, "accuracy", value, seed, steps=100, seconds=60.0) for seed, value in enumerate(values)]
    return rows


def language_rows() -> list[dict[str, Any]]:
    values = {"before": (1.70, 0.31), "kd": (0.60, 0.44), "grkd": (0.63, 0.50)}
    rows = [row("teacher", "forward_kl_nats", 0.0), row("teacher", "kendall_tau", None)]
    for method, (kl, tau) in values.items():
        seed = None if method == "before" else 0
        rows.append(row(method, "forward_kl_nats", kl, seed, low=kl - 0.02, high=kl + 0.02))
        rows.append(row(method, "kendall_tau", tau, seed, low=tau - 0.01, high=tau + 0.01))
    return rows


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    def build(
        name: str = "run",
        *,
        task: str = "classifier",
        rows: list[dict[str, Any]] | None = None,
        samples: list[dict[str, Any]] | None = None,
        title: str = "Digits",
        status: dict[str, str] | None = None,
    ) -> Path:
        folder = tmp_path / name
        labels = ("ce", "kd", "grkd") if task == "classifier" else ("kd", "grkd")
        seeds = range(3) if task == "classifier" else range(1)
        methods = "".join(f"- {{name: {label}, label: {label}, options: {{}}}}\n" for label in labels)
        folder.mkdir()
        (folder / "recipe.yaml").write_text(f"task: {task}\ntitle: From the recipe\nmethods:\n{methods}")
        (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
        results = {
            "title": title,
            "task": task,
            "status": {f"{label}-seed{seed}": "done" for label in labels for seed in seeds} | (status or {}),
            "counts": {"prompts_train": 1200, "prompts_dropped_too_long": 3},
            "rows": rows if rows is not None else classifier_rows() if task == "classifier" else language_rows(),
        }
        (folder / "results.json").write_text(json.dumps(results))
        for label in labels:
            for seed in seeds:
                _log(folder / "train" / f"{label}-seed{seed}" / "metrics.jsonl", label, seed)
        if samples is not None:
            (folder / "evaluate").mkdir()
            (folder / "evaluate" / "samples.json").write_text(json.dumps(samples))
        return folder

    return build


def _log(path: Path, label: str, seed: int) -> None:
    path.parent.mkdir(parents=True)
    lines = []
    for step in range(1, 6):
        line = {"step": step, "progress": step / 5, "loss_nats": 3.0 / step + seed, "gradient_norm": 1.0 / step}
        terms = {"soft_target": 2.0 / step} | ({"group_relative": 1.0 / step} if label == "grkd" else {})
        lines.append(json.dumps(line | {"terms": terms} | ({"alpha": step / 5} if label == "grkd" else {})))
    path.write_text("\n".join(lines) + "\n")
