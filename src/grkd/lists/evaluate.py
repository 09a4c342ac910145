"""The last stage: what a student or the teacher reaches on held-out queries."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from grkd.files import whole_file, write_json
from grkd.lists.context import HELDOUT, RankContext
from grkd.lists.metrics import Metrics, corpus_columns, costs, list_columns, with_intervals
from grkd.lists.score import teacher_scores
from grkd.lists.student import BiEncoder, Student, scored
from grkd.recipe import to_plain


def evaluate_teacher(context: RankContext) -> Path:
    """Leave evaluate/teacher/metrics.json: its own order against people's grades; empty without grades."""

    def make(work: Path) -> None:
        if context.run.ranks.is_main_process:
            queries, scores = context.lists.of(HELDOUT), teacher_scores(context)
            known = torch.where(scores.isfinite(), scores, -1e30)[queries]
            write_json(work / "metrics.json", with_intervals(list_columns(context.lists, queries, known)))

    return context.run.stage("evaluate/teacher", {**context.keys()}, make)


def evaluate_student(context: RankContext, name: str, opened: Callable[[], Student], key: str) -> Path:
    """Leave evaluate/<name>/metrics.json; queries.json and queries.npz, texts and a value per query.

    opened: the student, if it is needed.
    """
    inputs = {"evaluation": to_plain(context.recipe.evaluation), "model": key, **context.keys()}

    def make(work: Path) -> None:
        if context.run.ranks.is_main_process:
            student = opened().eval()
            metrics = heldout_metrics(context, student, work / "queries.npz")
            write_json(
                work / "queries.json", [context.lists.queries[one] for one in context.lists.of(HELDOUT).tolist()]
            )
            write_json(work / "metrics.json", metrics | costs(context, student))

    return context.run.stage(f"evaluate/{name}", inputs, make)


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
