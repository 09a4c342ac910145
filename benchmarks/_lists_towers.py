"""Many towers at once: one product of all their words' weights, and one call of an objective for all that share it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from benchmarks._lists_data import ListSet
from grkd import objectives, schedules
from grkd.objectives import Batch, Votes

SCALE, DIMENSIONS, BATCH = 20.0, 64, 32


@dataclass(frozen=True, kw_only=True)
class Tower:
    """One student: its method with options, its learning rate, and which teacher it learns from.

    scale: multiplies its scores before the loss.
    """

    method: str
    options: dict[str, Any]
    scale: float = 1.0
    learning_rate: float
    kind: str


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """What a kind of teacher says (see _lists_data.said). votes: (shares, weights) of several teachers, if any."""

    order: Tensor
    scores: Tensor
    votes: tuple[Tensor, Tensor] | None = None


def trained(
    lists: ListSet,
    towers: Sequence[Tower],
    teachers: dict[str, Teacher],
    *,
    queries: np.ndarray,
    steps: int,
    seeds: Sequence[int],
    device: torch.device,
) -> Tensor:
    """Weights of the words, [seeds, words, towers, dimensions], after `steps` of Adam.

    The towers of a seed start equal (random words times their rarity) and see the same batches.
    Rates: linear warm-up over a tenth, then a cosine to 0.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    rarity = torch.from_numpy(lists.rarity).unsqueeze(-1)
    first = torch.stack([torch.randn(len(rarity), DIMENSIONS, generator=own) for own in generators])
    first = (first / DIMENSIONS**0.5 * rarity).to(device)
    weights = first.unsqueeze(2).repeat(1, 1, len(towers), 1).requires_grad_()
    moments = torch.zeros_like(weights), torch.zeros_like(weights)
    rates = torch.tensor([tower.learning_rate for tower in towers], device=device).view(-1, 1)
    groups = _grouped(towers)
    orders: list[list[int]] = [[] for _ in seeds]
    for step in range(steps):
        chosen = [_batch(order, queries, own) for order, own in zip(orders, generators, strict=True)]
        scores = torch.stack(
            [_scores(lists, one, own, device) for one, own in zip(chosen, weights.unbind(0), strict=True)]
        )
        progress = schedules.progress_at(step, steps)
        rows = torch.from_numpy(np.stack(chosen))
        loss = torch.stack([_loss(scores, group, towers, teachers, rows, progress) for group in groups]).sum()
        (gradient,) = torch.autograd.grad(loss, weights)
        _adam(weights, gradient, moments, rates * _rate(step, steps), step)
    return weights.detach()


def _batch(order: list[int], queries: np.ndarray, generator: torch.Generator) -> np.ndarray:
    """The next queries of a seed; `order` is what is left of its epoch."""
    if len(order) < BATCH:
        order += torch.randperm(len(queries), generator=generator).tolist()
    chosen = queries[order[:BATCH]]
    del order[:BATCH]
    return chosen


def ndcg10(lists: ListSet, weights: Tensor, queries: np.ndarray, *, device: torch.device) -> np.ndarray:
    """NDCG@10 per tower and query, [towers, queries]; NaN for a query without a relevant document.

    Over the query's pool or, without one, all documents. Linear gain, as trec_eval.
    """
    found = []
    documents = None if lists.pool.shape[1] else _words(lists.documents, device)
    for part in torch.arange(weights.shape[1]).split(max(1, (1 << 30) // (4 * lists.documents.shape[0] * DIMENSIONS))):
        own = weights[:, part[0] : part[-1] + 1]
        offered = None if documents is None else _embedded(documents, own)
        columns = []
        for rows in np.array_split(queries, max(1, len(queries) // 64)):
            asked = _embedded(_words(lists.queries[rows], device), own)
            grades = torch.from_numpy(lists.grades[rows]).to(device).float()
            if offered is not None:
                scores = torch.einsum("qnd,cnd->nqc", asked, offered)
            else:
                used, place = np.unique(lists.pool[rows].clip(0), return_inverse=True)
                of_pool = _embedded(_words(lists.documents[used], device), own)
                scores = torch.einsum("qnd,qcnd->nqc", asked, of_pool[torch.from_numpy(place.reshape(grades.shape))])
            columns.append(_ndcg(scores, grades).cpu())
        found.append(torch.cat(columns, -1))
    return np.asarray(torch.cat(found).numpy())


def _ndcg(scores: Tensor, grades: Tensor, k: int = 10) -> Tensor:
    """[towers, queries] of scores [towers, queries, documents]; a grade of -1 is no document."""
    k = min(k, scores.shape[-1])
    gains = grades.clamp_min(0)
    discounts = 1 / torch.log2(torch.arange(k, device=scores.device) + 2.0)
    best = (gains.topk(k, -1).values * discounts).sum(-1)
    chosen = scores.masked_fill(grades < 0, -torch.inf).topk(k, -1).indices
    reached = (gains.expand(scores.shape).gather(-1, chosen) * discounts).sum(-1)
    return torch.where(best > 0, reached / best.clamp_min(1e-9), torch.nan)


def teacher_value(lists: ListSet, queries: np.ndarray) -> float | None:
    """Mean NDCG@10 of the teacher's order of its candidates as if they were all; None if no corpus is ranked."""
    if lists.pool.shape[1]:
        return None
    grades = torch.from_numpy(lists.grades[queries]).float()
    scores = torch.full(grades.shape, -1e9)
    scores.scatter_(1, torch.from_numpy(lists.candidates[queries]).long(), torch.from_numpy(lists.scores[queries]))
    return float(np.nanmean(_ndcg(scores.unsqueeze(0), grades).numpy()))


def _scores(lists: ListSet, chosen: np.ndarray, weights: Tensor, device: torch.device) -> Tensor:
    """[towers, queries, candidates] of a batch."""
    used, place = np.unique(lists.candidates[chosen], return_inverse=True)
    asked = _embedded(_words(lists.queries[chosen], device), weights)
    offered = _embedded(_words(lists.documents[used], device), weights)
    place = torch.from_numpy(place.reshape(len(chosen), -1)).to(device)
    return SCALE * torch.einsum("qnd,qcnd->nqc", asked, offered[place])


def _embedded(words: Tensor, weights: Tensor) -> Tensor:
    """[texts, towers, dimensions], of length 1."""
    found = words @ weights.reshape(len(weights), -1)
    return torch.nn.functional.normalize(found.view(len(words), weights.shape[1], DIMENSIONS), dim=-1)


def _grouped(towers: Sequence[Tower]) -> list[list[int]]:
    """Numbers of the towers with the same method and options."""
    groups: dict[str, list[int]] = {}
    for number, tower in enumerate(towers):
        groups.setdefault(repr((tower.method, sorted(tower.options.items()), tower.kind == "votes")), []).append(number)
    return list(groups.values())


def _loss(
    scores: Tensor,
    group: Sequence[int],
    towers: Sequence[Tower],
    teachers: dict[str, Teacher],
    rows: Tensor,
    progress: float,
) -> Tensor:
    """Sum of the losses of a group's towers, each a mean over its batch: scores [seeds, towers, queries, candidates].

    One call of the objective has the rows of all seeds and towers. rows: the queries' numbers, [seeds, queries].
    """
    tower = towers[group[0]]
    objective = objectives.load(tower.method, **tower.options)
    given = [teachers[towers[number].kind] for number in group]
    heard = [one.scores if objective.least_teacher == "scores" else one.order for one in given]

    def of_batch(values: Sequence[Tensor]) -> Tensor:
        return torch.stack([value[rows] for value in values], 1).flatten(0, 2).to(scores.device)

    votes = None
    if tower.kind == "votes":
        shares, weights = zip(*(one.votes for one in given if one.votes is not None), strict=True)
        votes = Votes(targets=of_batch(shares), weights=of_batch(weights))
    scales = torch.tensor([towers[number].scale for number in group], device=scores.device).view(-1, 1, 1)
    student = (scores[:, list(group)] * scales).flatten(0, 2)
    terms = objective.terms(Batch(student=student, teacher=of_batch(heard), progress=progress, votes=votes))
    total = [term.weight * torch.where(term.counted, term.rows, 0.0).sum() for term in terms]
    return torch.stack(total).sum() / rows.shape[-1]


def _rate(step: int, steps: int) -> float:
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(1, steps - warm))))


@torch.no_grad()
def _adam(weights: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], rates: Tensor, step: int) -> None:
    first, second = moments
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    correction = (1 - 0.999 ** (step + 1)) ** 0.5
    size = second.sqrt().div_(correction).add_(1e-8)
    weights.sub_(first.div(size).mul_(rates / (1 - 0.9 ** (step + 1))))


def _words(words: csr_matrix, device: torch.device) -> Tensor:
    """Words of texts as a matrix: sparse on a CPU; a GPU is faster with all the zeros."""
    if device.type != "cpu":
        return dense(words, device)
    parts = (torch.from_numpy(part) for part in (words.indptr, words.indices, words.data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls this layout "beta"
        return torch.sparse_csr_tensor(*parts, size=words.shape, check_invariants=False)


def dense(words: csr_matrix, device: torch.device) -> Tensor:
    """The matrix with all its zeros, made on the device: only the words are copied there."""
    rows = np.repeat(np.arange(words.shape[0]), np.diff(words.indptr))
    found = torch.zeros(words.shape, device=device)
    places = (torch.from_numpy(each.astype(np.int64)).to(device) for each in (rows, words.indices))
    return found.index_put_(tuple(places), torch.from_numpy(words.data).to(device))
