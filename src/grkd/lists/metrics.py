"""What is measured of a ranker: the same names and intervals in every command."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from grkd.lists.context import PreparedLists, RankContext
from grkd.lists.student import BiEncoder, Student, scored
from grkd.metrics.rank import kendall_tau_b, top1_agreement
from grkd.metrics.registry import metric_of
from grkd.metrics.retrieval import retrieval_measures
from grkd.statistics import bootstrap_interval

Metrics = dict[str, dict[str, float | None]]
# What a search may go by.
ON_VALIDATION = ("list_ndcg10", "list_mrr", "list_map", "list_recall10", "kendall_tau", "top1_agreement")
_DEPTH = 100  # documents of the corpus that are looked at
_TIMED = 20  # queries


def list_columns(
    lists: PreparedLists,
    queries: Tensor,
    scores: Float[Tensor, "rows candidates"],
    teacher: Float[Tensor, "queries candidates"] | None = None,
) -> dict[str, np.ndarray]:
    """A value per query and metric, over each query's own candidates; NaN if a query has none.

    list_ndcg10, list_mrr, list_map, list_recall10: by people's grades, of candidates alone; left out without grades.
    kendall_tau (tau-b) and top1_agreement: with the teacher's scores, where it has some.
    """
    columns: dict[str, np.ndarray] = {}
    exists, grades = lists.exists[queries], lists.grades[queries]
    if bool(grades.isfinite().any()):
        ranked, judged = {}, {}
        for row in range(len(queries)):
            own = exists[row].nonzero().squeeze(-1).tolist()
            ranked[str(row)] = {str(one): float(scores[row, one]) for one in own}
            judged[str(row)] = {str(one): float(grades[row, one]) for one in own if not grades[row, one].isnan()}
        columns |= retrieval_measures(ranked, judged, over="list")
    if teacher is not None:
        known = teacher[queries].isfinite()
        given = torch.where(known, teacher[queries], 0.0)
        columns["kendall_tau"] = kendall_tau_b(scores.double(), given, mask=known).numpy()
        columns["top1_agreement"] = top1_agreement(scores.double(), given, mask=known).numpy()
    return columns


def corpus_columns(context: RankContext, student: BiEncoder, queries: Tensor) -> dict[str, np.ndarray]:
    """A value per query over the whole corpus: corpus_ndcg10, corpus_mrr, corpus_map and corpus_recall100."""
    lists, size, where = context.lists, context.recipe.evaluation.batch_size, context.device
    documents = student.embedded(lists.documents, prompt=student.document_prompt, batch_size=size, device=where)
    asked = student.embedded(
        [lists.queries[one] for one in queries.tolist()], prompt=student.query_prompt, batch_size=size, device=where
    )
    grades: dict[int, dict[str, float]] = {}
    for query, document, grade in lists.judged.tolist():
        grades.setdefault(int(query), {})[str(int(document))] = grade
    ranked, judged = {}, {}
    for row, query in enumerate(queries.tolist()):
        scores = documents @ asked[row]
        scores[lists.left_out[lists.left_out[:, 0] == query, 1].to(scores.device)] = -torch.inf
        best = scores.topk(min(_DEPTH, len(scores)))
        ranked[str(row)] = dict(zip(map(str, best.indices.tolist()), best.values.tolist(), strict=True))
        judged[str(row)] = grades.get(query, {})
    return retrieval_measures(ranked, judged, over="corpus")


def costs(context: RankContext, student: Student) -> Metrics:
    """model_mb; index_mb: embeddings of all documents in float32 (bi-encoders); query_ms: one query by itself, scored
    against the whole index (bi-encoders) or its own candidates: the median of 20."""
    size = sum(one.numel() * one.element_size() for one in student.parameters()) / 1e6
    found = {"model_mb": _alone(size)}
    lists = context.lists
    if isinstance(student, BiEncoder):
        index = torch.randn(len(lists.documents), student.encoder.get_embedding_dimension(), device=context.device)
        found["index_mb"] = _alone(index.numel() * 4 / 1e6)

        def answer(query: int) -> Any:
            text, prompt = lists.queries[query], student.query_prompt
            embedded = student.embedded([text], prompt=prompt, batch_size=1, device=context.device)
            return (index @ embedded[0]).topk(min(10, len(index))).values.cpu()
    else:

        def answer(query: int) -> Any:
            return scored(context, student, torch.tensor([query]))

    found["query_ms"] = _alone(_milliseconds(answer, min(_TIMED, len(lists.queries))))
    return found


def with_intervals(columns: dict[str, np.ndarray], *, intervals: bool = True) -> Metrics:
    """Means over the queries that have a value, with 95 % intervals by resampling queries; none if nothing has."""
    known = {name: values for name, values in columns.items() if not np.isnan(values).all()}
    if not intervals:
        return {name: _alone(float(np.nanmean(values))) for name, values in known.items()}
    return {
        name: bootstrap_interval(values, share=metric_of(name).is_share).as_json() for name, values in known.items()
    }


def _alone(value: float) -> dict[str, float | None]:
    return {"value": value, "low": None, "high": None}


@torch.no_grad()
def _milliseconds(answer: Callable[[int], Any], count: int) -> float:
    answer(0)
    spent = []
    for query in range(count):
        since = time.perf_counter()
        answer(query)
        spent.append(1000 * (time.perf_counter() - since))
    return median(spent)
