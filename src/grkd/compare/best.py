"""The students of a finished run that are worth keeping: best/, and on request each method's best seed."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from grkd.compare.student_job import StudentJob
from grkd.files import read_json
from grkd.metrics.registry import higher_is_better
from grkd.run.folder import RunFolder

_NOTE = (
    "Chosen by the held-out metric: among many students the best one is also lucky, so its own metric is too good. "
    "The means over seeds are in results.json."
)


def keep_best(
    run: RunFolder,
    jobs: Sequence[StudentJob],
    *,
    by: Sequence[str],
    every_method: bool,
    describe: Callable[[Path, dict[str, Any]], None],
) -> None:
    """Copy the best student to best/model: of the method with the best mean over its seeds, the best seed.

    by: metrics to choose by, of which the first that was measured counts. Nothing is kept if none was.
    every_method: each method's best seed goes to best/<label>/model as well. describe: writes what the task needs
    beside a model; it gets the folder that holds model/, and what to say of the choice.
    """
    metrics = {job.name: read_json(run.path / "evaluate" / job.name / "metrics.json") for job in jobs}
    metric = next((name for name in by if any(name in found for found in metrics.values())), by[-1])
    chosen = _best_seeds(jobs, metrics, metric)
    if not chosen:
        return
    winner = max(chosen.values(), key=lambda own: own[0])[1]
    kept = {".": winner, **({label: job for label, (_, job) in chosen.items()} if every_method else {})}
    keys = {at: [job.name, run.key(f"evaluate/{job.name}")] for at, job in kept.items()}

    def make(work: Path) -> None:
        for at, job in kept.items():
            shutil.copytree(run.path / "train" / job.name / "model", work / at / "model", dirs_exist_ok=True)
            describe(work / at, _about(job, metric, metrics[job.name]))

    run.stage("best", {"chosen_by": metric, "kept": keys}, make, main_only=True)


def _best_seeds(
    jobs: Sequence[StudentJob], metrics: Mapping[str, Mapping[str, Any]], metric: str
) -> dict[str, tuple[float, StudentJob]]:
    """label -> (mean over the method's seeds, its best seed); a higher mean is better whatever the metric."""
    sign = 1.0 if higher_is_better(metric) else -1.0
    values: dict[str, list[tuple[float, StudentJob]]] = {}
    for job in jobs:
        if (value := metrics[job.name].get(metric, {}).get("value")) is not None:
            values.setdefault(job.method.label, []).append((sign * value, job))
    return {
        label: (sum(value for value, _ in own) / len(own), max(own, key=lambda each: each[0])[1])
        for label, own in values.items()
    }


def _about(job: StudentJob, metric: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "method": job.method.name,
        "label": job.method.label,
        "seed": job.seed,
        "settings": job.settings,
        "chosen_by": metric,
        "note": _NOTE,
        "metrics": {name: found["value"] for name, found in metrics.items()},
    }
