"""The student of a finished run that is worth keeping: best/."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from grkd.files import read_json, write_json
from grkd.lists.context import RankContext
from grkd.lists.train import StudentJob

_NOTE = (
    "Chosen by the held-out metric: among many students the best one is also lucky, so its own figure is too good. "
    "The means over seeds are in results.json."
)


def keep_best(context: RankContext, jobs: Sequence[StudentJob]) -> None:
    """Copy the best student to best/model: of the method with the best mean over its seeds, the best seed.

    By NDCG over the candidates, or without people's grades by Kendall's tau with the teacher.
    """
    metrics = [read_json(context.run.path / "evaluate" / job.name / "metrics.json") for job in jobs]
    by = next((name for name in ("list_ndcg10", "kendall_tau") if any(name in one for one in metrics)), None)
    values: dict[str, list[tuple[float, StudentJob]]] = {}
    for job, found in zip(jobs, metrics, strict=True):
        value = found.get(by, {}).get("value") if by is not None else None
        if value is not None:
            values.setdefault(job.method.label, []).append((value, job))
    if not values:
        return
    label = max(values, key=lambda one: sum(value for value, _ in values[one]) / len(values[one]))
    winner = max(values[label], key=lambda each: each[0])[1]
    inputs = {"chosen_by": by, "kept": [winner.name, context.run.key(f"evaluate/{winner.name}")]}

    def make(work: Path) -> None:
        if context.run.ranks.is_main_process:
            shutil.copytree(context.run.path / "train" / winner.name / "model", work / "model", dirs_exist_ok=True)
            about = {"method": winner.method.name, "label": label, "seed": winner.seed, "chosen_by": by, "note": _NOTE}
            write_json(work / "ranker.json", about)

    context.run.stage("best", inputs, make)
