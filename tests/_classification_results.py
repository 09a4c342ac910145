"""Kept results of made-up classification experiments."""

import json
from pathlib import Path
from typing import Any

from benchmarks._classification_results import Experiment, read


def made_up(
    tmp_path: Path, accuracies: dict[str, list[float]], name: str = "a", metric: str = "accuracy"
) -> Experiment:
    rows: list[dict[str, Any]] = [
        {"label": label, "method": "grkd" if label.startswith("grkd") else label, "metric": metric,
         "seed": seed, "value": value}
        for label, values in accuracies.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    rows.append({"label": "teacher", "method": "teacher", "metric": "accuracy", "seed": None, "value": 0.9})
    record = {"title": name.upper(), "environment": {}, "recipe": {}, "status": {}, "settings": {}, "search": [],
              "rows": rows}  # fmt: skip
    (tmp_path / f"{name}.json").write_text(json.dumps(record))
    return read(tmp_path / f"{name}.json")


OURS = [0.52, 0.53, 0.51, 0.54, 0.52]
BEST = [0.50, 0.50, 0.50, 0.51, 0.50]
