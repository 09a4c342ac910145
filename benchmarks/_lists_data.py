"""Lists of the experiment as arrays: words of the texts, candidates, judgements, and what each teacher says."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from grkd.data.known_sets import known_set
from grkd.data.retrieval_folder import RetrievalFolder, read_retrieval_folder
from grkd.lists.mine import by_bm25
from grkd.lists.score import places
from grkd.rankers.combine import weighted

SETS = ("wikiqa", "mediqa_qa", "cranfield", "banking77", "clinc150")
KINDS = ("scores", "order", "top5", "top1", "tiers", "warped", "two")
TEACHER_SCALE = 20.0  # of cosines, as the student's
_CANDIDATES, _WORDS, _TIERS = 32, 8_000, 4
# Noise of this deviation on z-scores turns 30 % of the pairs round: arccos(1 / sqrt(1 + x^2)) / pi = .3.
_NOISE = math.tan(0.3 * math.pi)
_PARTS = {"train": 0, "validation": 1, "test": 2}
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class ListSet:
    """A set as the towers see it. words: texts x words, each row with sum 1; rarity: inverse document frequencies.

    candidates: documents, [queries, 32]. scores: of the encoder; bm25: of the other teacher. pool: documents that are
    ranked in evaluation, -1 behind the last; of an empty pool all are. part: 0 train, 1 validation, 2 test.
    """

    queries: csr_matrix
    documents: csr_matrix
    rarity: NDArray[Any]
    candidates: NDArray[Any]
    scores: NDArray[Any]
    bm25: NDArray[Any]
    pool: NDArray[Any]
    grades: NDArray[Any]  # of the pool, or of all documents
    part: NDArray[Any]


def prepared(name: str, data: Path, encoder: str) -> dict[str, NDArray[Any]]:
    """The arrays of a set; minutes, for the encoder reads all texts."""
    found = _intents(name, data) if name in ("banking77", "clinc150") else _retrieval(data / "retrieval" / name)
    left_out = [found.left_out.get(query, frozenset()) for query in range(len(found.queries))]
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(encoder, device="cpu")
    model.max_seq_length = 128
    asked, offered = (
        model.encode(list(texts), normalize_embeddings=True) for texts in (found.queries, found.documents)
    )
    candidates = np.array(_candidates(found, asked, offered, left_out))
    scores = np.einsum("qd,qcd->qc", asked, offered[candidates])
    pool, grades = _pool(found, whole=name != "wikiqa", left_out=left_out)
    train = [query for query in range(len(found.queries)) if found.parts[query] == "train"]
    words, rarity = _vocabulary([*found.documents, *(found.queries[one] for one in train)])
    return {
        **_sparse("queries", found.queries, words),
        **_sparse("documents", found.documents, words),
        "rarity": rarity.astype(np.float32),
        "candidates": candidates.astype(np.int32),
        "scores": scores.astype(np.float32),
        "bm25": _bm25(found, candidates).astype(np.float32),
        "pool": pool,
        "grades": grades,
        "part": np.array([_PARTS[found.parts[query]] for query in range(len(found.queries))], dtype=np.int8),
    }


def load(path: Path) -> ListSet:
    """A set that `prepared` made."""
    arrays = np.load(path)
    sparse = {
        name: csr_matrix(
            (arrays[f"{name}_data"], arrays[f"{name}_indices"], arrays[f"{name}_indptr"]),
            shape=(len(arrays[f"{name}_indptr"]) - 1, len(arrays["rarity"])),
        )
        for name in ("queries", "documents")
    }
    own = ("rarity", "pool", "grades", "part")
    mixed = ("candidates", "scores", "bm25")
    # Candidates lie as they were found, the likeliest first: a method that ranks ties by index would learn from that.
    order = np.random.default_rng(0).permuted(np.tile(np.arange(_CANDIDATES), (len(arrays["part"]), 1)), axis=1)
    return ListSet(
        **sparse,
        **{name: arrays[name] for name in own},
        **{name: np.take_along_axis(arrays[name], order, axis=1) for name in mixed},
    )


def said(lists: ListSet, kind: str, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """What a teacher says: (for methods that read an order, for methods that need scores), [queries, candidates].

    Where it gives no scores, the second is -log(1 + place). Noise and warps are drawn once, for all methods.
    """
    scores = torch.from_numpy(lists.scores).double() * TEACHER_SCALE
    generator = torch.Generator().manual_seed(seed)
    if kind in ("scores", "warped", "two"):
        if kind == "warped":  # another rising function for every query: a power of the standing, times a scale
            low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
            standing = (scores - low) / (high - low).clamp_min(1e-9)
            power, scale = (2.0 ** (4 * torch.rand(len(scores), 1, generator=generator).double() - 2) for _ in range(2))
            scores = 10 * scale * standing**power
        if kind == "two":
            both = [scores.numpy(), lists.bm25.astype(np.float64)]
            scores = torch.from_numpy(weighted(both))
        return scores.float(), scores.float()
    top = {"top5": 5, "top1": 1}.get(kind)
    if kind == "tiers":
        z = (scores - scores.mean(-1, keepdim=True)) / scores.std(-1, keepdim=True).clamp_min(1e-9)
        noisy = z + _NOISE * torch.randn(z.shape, generator=generator).double()
        rank = (-noisy).argsort(-1).argsort(-1)
        place = (rank * _TIERS // scores.shape[-1]).double()
    else:
        place = places(scores, top=top)
    return -place.float(), -torch.log1p(place).float()


def _candidates(
    found: RetrievalFolder, asked: NDArray[Any], offered: NDArray[Any], left_out: Sequence[frozenset[int]]
) -> list[list[int]]:
    """The likeliest documents by BM25 and by cosine in turn, 32 per query: grkd.lists.mine with embeddings at hand."""
    depth = _CANDIDATES + 1  # one document is left out, at most
    dense = [(-(row @ offered.T)).argsort()[:depth].tolist() for row in asked]
    sparse = by_bm25(found.queries, found.documents, depth)
    lists = []
    for number, (a, b) in enumerate(zip(sparse, dense, strict=True)):
        in_turn = [one for pair in zip(a, b, strict=True) for one in pair if one not in left_out[number]]
        lists.append(list(dict.fromkeys(in_turn))[:_CANDIDATES])
    return lists


def _retrieval(folder: Path) -> RetrievalFolder:
    return read_retrieval_folder(folder, split="published" if folder.name == "wikiqa" else "proposed")


def _intents(name: str, data: Path) -> RetrievalFolder:
    """Half of the training texts are documents; of the others 2,000 train and 500 validate; 1,000 test texts test.

    A document is relevant if it has the query's intent.
    """
    found = known_set(name, data / "classification" / "intent_text")  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(found.train_labels), generator=generator)
    half = len(order) // 2
    held = torch.randperm(len(found.heldout_labels), generator=generator)[:1000]
    documents, train, validation = order[:half], order[half : half + 2000], order[half + 2000 : half + 2500]
    texts = [str(found.train_inputs[one]) for one in torch.cat([train, validation]).tolist()]
    texts += [str(found.heldout_inputs[one]) for one in held.tolist()]
    labels = torch.cat([found.train_labels[train], found.train_labels[validation], found.heldout_labels[held]])
    same = labels.unsqueeze(-1) == found.train_labels[documents]
    judged = {query: dict.fromkeys(row.nonzero().squeeze(-1).tolist(), 1.0) for query, row in enumerate(same)}
    parts = ["train"] * len(train) + ["validation"] * len(validation) + ["test"] * len(held)
    return RetrievalFolder(
        documents=tuple(str(found.train_inputs[one]) for one in documents.tolist()),
        queries=tuple(texts),
        judged=judged,
        parts=dict(enumerate(parts)),
    )


def _pool(found: RetrievalFolder, *, whole: bool, left_out: Sequence[frozenset[int]]) -> tuple[NDArray[Any], ...]:
    """Documents that are ranked, and their grades; -1 in place of a document that is left out."""
    count = len(found.queries)
    if whole:
        grades = np.zeros((count, len(found.documents)), dtype=np.int8)
        for query, judged in found.judged.items():
            for document, grade in judged.items():
                grades[query, document] = int(grade)
        for query, documents in enumerate(left_out):
            grades[query, list(documents)] = -1
        return np.empty((count, 0), dtype=np.int32), grades
    width = max(map(len, found.judged.values()))
    pool, grades = np.full((count, width), -1, dtype=np.int32), np.full((count, width), -1, dtype=np.int8)
    for query, judged in found.judged.items():
        pool[query, : len(judged)] = list(judged)
        grades[query, : len(judged)] = list(judged.values())
    return pool, grades


def _bm25(found: RetrievalFolder, candidates: NDArray[Any]) -> NDArray[Any]:
    """BM25 of the candidates, by the same index that finds them."""
    import bm25s

    quiet = {"stopwords": "en", "show_progress": False}
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(found.documents), **quiet), show_progress=False)
    asked = bm25s.tokenize(list(found.queries), return_ids=False, **quiet)
    nothing = np.zeros(candidates.shape[1])  # for a query of stop words alone
    return np.stack(
        [index.get_scores(words)[own] if words else nothing for words, own in zip(asked, candidates, strict=True)]
    )


def _vocabulary(texts: Sequence[str]) -> tuple[dict[str, int], NDArray[Any]]:
    frequency = Counter(word for text in texts for word in set(_WORD.findall(text.lower())))
    common = sorted((word for word, count in frequency.items() if count > 1), key=lambda one: (-frequency[one], one))
    kept = common[:_WORDS]
    rarity = np.array([math.log((1 + len(texts)) / (1 + frequency[word])) + 1 for word in kept])
    return {word: number for number, word in enumerate(kept)}, rarity


def _sparse(name: str, texts: Sequence[str], words: dict[str, int]) -> dict[str, NDArray[Any]]:
    rows = [Counter(words[word] for word in _WORD.findall(text.lower()) if word in words) for text in texts]
    indptr = np.cumsum([0, *map(len, rows)])
    data = [count / max(1, row.total()) for row in rows for count in row.values()]
    return {
        f"{name}_data": np.array(data, dtype=np.float32),
        f"{name}_indices": np.array([word for row in rows for word in row], dtype=np.int32),
        f"{name}_indptr": indptr.astype(np.int32),
    }


def counts(lists: ListSet) -> dict[str, int]:
    """Numbers for the page."""
    own = {part: int((lists.part == number).sum()) for part, number in _PARTS.items()}
    return {**own, "documents": lists.documents.shape[0], "words": len(lists.rarity)}
