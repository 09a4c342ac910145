"""The last stage: what a student or the teacher reaches on held-out queries."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from grkd import hub
from grkd.files import whole_file, write_json
from grkd.lists.context import HELDOUT, RankContext
from grkd.lists.metrics import Metrics, corpus_columns, costs, list_columns, with_intervals
from grkd.lists.score import teacher_scores
from grkd.lists.student import BiEncoder, Student, scored
from grkd.run.cost import begin_peak, peak_bytes, stored_cost, without_prices


def evaluate_teacher(context: RankContext) -> Path:
    """Leave evaluate/teacher/metrics.json: its own order against people's grades; empty without grades. And cost.json:
    the size of a single teacher whose files are at hand."""

    def make(work: Path) -> None:
        queries, scores = context.lists.of(HELDOUT), teacher_scores(context)
        known = torch.where(scores.isfinite(), scores, -1e30)[queries]
        write_json(work / "metrics.json", with_intervals(list_columns(context.lists, queries, known)))
        teacher = context.recipe.teacher
        alone = len(teacher.models) == 1 and teacher.served is None
        write_json(work / "cost.json", stored_cost(hub.folder_of(teacher.models[0])) if alone else {})

    return context.run.stage("evaluate/teacher", context.keys(), make, main_only=True)


def evaluate_student(context: RankContext, name: str, opened: Callable[[], Student], key: str) -> Path:
    """Leave evaluate/<name>/metrics.json and cost.json; queries.json and queries.npz, texts and a value per query.

    opened: the student, if it is needed.
    """
    inputs = {"evaluation": without_prices(context.recipe.evaluation), "model": key, **context.keys()}

    def make(work: Path) -> None:
        student = opened().eval()
        begin_peak(context.device)
        metrics = heldout_metrics(context, student, work / "queries.npz")
        peak = peak_bytes(context.device)
        write_json(work / "queries.json", [context.lists.queries[one] for one in context.lists.of(HELDOUT).tolist()])
        spent = costs(context, student)
        write_json(work / "metrics.json", metrics | spent)
        write_json(work / "cost.json", _cost(student, spent, peak))

    return context.run.stage(f"evaluate/{name}", inputs, make, main_only=True)


def _cost(student: Student, spent: Metrics, peak: int | None) -> dict[str, Any]:
    """parameters, weight_bytes, queries_per_second one by one, and a GPU's peak_bytes in the evaluation."""
    weights, milliseconds = list(student.parameters()), spent["query_ms"]["value"]
    return {
        "parameters": sum(one.numel() for one in weights),
        "weight_bytes": sum(one.numel() * one.element_size() for one in weights),
        "queries_per_second": 1000 / milliseconds if milliseconds else None,
        "peak_bytes": peak,
    }


def heldout_metrics(context: RankContext, student: Student, kept: Path) -> Metrics:
    """Metrics over the held-out queries with intervals; their values per query go to a file."""
    queries = context.lists.of(HELDOUT)
    columns = list_columns(context.lists, queries, scored(context, student, queries), teacher_scores(context))
    over_corpus = context.recipe.evaluation.corpus and context.recipe.data.folder is not None
    if over_corpus and isinstance(student, BiEncoder):
        columns |= corpus_columns(context, student, queries)
    with whole_file(kept) as aside, aside.open("wb") as file:
        np.savez(file, allow_pickle=False, **columns)
    return with_intervals(columns)


def validation_metrics(context: RankContext, student: Student) -> Metrics:
    """What a search may go by, on its validation queries."""
    _, queries = context.search_queries
    columns = list_columns(context.lists, queries, scored(context, student, queries), teacher_scores(context))
    return with_intervals(columns, intervals=False)
