"""Candidates of a query out of a corpus: BM25, and a dense model beside it."""

from collections.abc import Collection, Sequence
from itertools import chain, zip_longest

import torch
from jaxtyping import Int
from torch import Tensor

from grkd.errors import UserError
from grkd.lists.libraries import library
from grkd.lists.tower import open_encoder


def mined(
    queries: Sequence[str],
    documents: Sequence[str],
    *,
    count: int,
    left_out: Sequence[Collection[int]],
    dense_model: str | None = None,
    device: torch.device,
) -> list[list[int]]:
    """`count` documents per query (fewer in a small corpus), the likeliest first; BM25 and the dense model take turns.

    left_out: per query, documents that are never candidates.
    """
    depth = min(len(documents), count + max(map(len, left_out), default=0))
    sources = [by_bm25(queries, documents, depth)]
    if dense_model is not None:
        sources.append(by_model(queries, documents, depth, model=dense_model, device=device).tolist())
    found = []
    for number, several in enumerate(zip(*sources, strict=True)):
        in_turn = (one for one in chain(*zip_longest(*several)) if one is not None and one not in left_out[number])
        found.append(list(dict.fromkeys(in_turn))[:count])
    return found


def by_bm25(queries: Sequence[str], documents: Sequence[str], count: int) -> list[list[int]]:
    """Numbers of the documents with the highest BM25 score (Lucene's, k1 1.5, b 0.75; English stop words left out)."""
    bm25s = library("bm25s")
    quiet = {"stopwords": "en", "show_progress": False}
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(documents), **quiet), show_progress=False)
    found, _ = index.retrieve(bm25s.tokenize(list(queries), **quiet), k=count, show_progress=False)
    return [[int(one) for one in row] for row in found]


def by_model(
    queries: Sequence[str], documents: Sequence[str], count: int, *, model: str, device: torch.device
) -> Int[Tensor, "queries count"]:
    """Numbers of the documents that a sentence-transformers model finds most similar, by its own similarity."""
    try:
        encoder = open_encoder(model, device)
    except (OSError, ValueError) as error:
        raise UserError(f"data.dense_model: {model}: {' '.join(str(error).split())[:200]}") from None
    options = {"convert_to_tensor": True, "show_progress_bar": False}
    asked = encoder.encode_query(list(queries), **options)
    offered = encoder.encode_document(list(documents), **options)
    return torch.cat([encoder.similarity(part, offered).topk(count, -1).indices.cpu() for part in asked.split(256)])
