"""Retrieval measures per query: NDCG, MRR, MAP and recall, computed by ir-measures."""

from collections.abc import Mapping

import numpy as np

from grkd.errors import UserError

# Name in ours -> measure in ir-measures' notation; `over` goes before the name: list_ndcg10, corpus_ndcg10.
_MEASURES = {"ndcg10": "nDCG@10", "mrr": "RR", "map": "AP"}
_DEPTH = {"list": ("recall10", "R@10"), "corpus": ("recall100", "R@100")}


def retrieval_measures(
    ranked: Mapping[str, Mapping[str, float]], judged: Mapping[str, Mapping[str, float]], *, over: str
) -> dict[str, np.ndarray]:
    """metric -> a value per query, in the order of `judged`; NaN for a query without a relevant document.

    ranked: query -> document -> score. judged: query -> document -> grade, 0: not relevant; a document without a grade
    is not relevant. NDCG's gain is the grade itself (linear). over: "list" or "corpus", the beginning of the names.
    Raises UserError if ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError:
        raise UserError("task: rank needs ir-measures; pip install 'grkd[rank]'") from None
    names = _MEASURES | dict([_DEPTH[over]])
    measures = {ir_measures.parse_measure(measure): f"{over}_{name}" for name, measure in names.items()}
    relevant = [query for query, grades in judged.items() if any(grade > 0 for grade in grades.values())]
    qrels = {query: {document: int(grade) for document, grade in judged[query].items()} for query in relevant}
    run = {query: dict(ranked[query]) for query in relevant if ranked.get(query)}
    place = {query: number for number, query in enumerate(judged)}
    found = {name: np.full(len(judged), np.nan) for name in measures.values()}
    for one in ir_measures.iter_calc(list(measures), qrels, run) if run else ():
        found[measures[one.measure]][place[one.query_id]] = one.value
    return found
