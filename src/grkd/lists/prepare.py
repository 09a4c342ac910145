"""The first stage: lists read or mined, split, counted, and kept as tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from grkd.console import console
from grkd.data.lists import Lists, RankedList, read_lists, read_named_lists
from grkd.data.retrieval_folder import RetrievalFolder, read_retrieval_folder
from grkd.errors import UserError
from grkd.files import whole_file, write_json
from grkd.lists.context import HELDOUT, NONE, TRAIN, VALIDATION, RankContext, drawn
from grkd.lists.mine import mined
from grkd.recipe import RankData
from grkd.run.folder import identity

_PARTS = {"train": TRAIN, "validation": VALIDATION, "test": HELDOUT}


def prepare(context: RankContext) -> Path:
    """Leave counts.json, lists.json (texts) and lists.safetensors (see PreparedLists)."""
    inputs = {"data": identity(context.recipe.data), "seed": context.seed}

    def make(work: Path) -> None:
        about, tensors = read(context)
        write_json(work / "lists.json", about)
        write_json(work / "counts.json", _counts(about, tensors))
        with whole_file(work / "lists.safetensors") as aside:
            save_file({name: value.contiguous() for name, value in tensors.items()}, aside)

    return context.run.stage("prepare", inputs, make, quick=True, main_only=True)


def read(context: RankContext) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The texts, and the lists as tensors. Raises UserError for data that leave nothing to train on or to measure."""
    data = context.recipe.data
    if data.folder is not None:
        lists, parts = _of_folder(context, read_retrieval_folder(Path(data.folder), split=data.split))
    else:
        lists = _of_records(data)
        parts = [TRAIN] * len(lists.train) + [HELDOUT] * len(lists.heldout)
    every = [*lists.train, *lists.heldout]
    kept = first_of_each(parts, data.limit)
    every, parts = [every[one] for one in kept], [parts[one] for one in kept]
    part = _split([one.query for one in every], parts, data, seed=context.seed)
    if not int((part == TRAIN).sum()) or not int((part == HELDOUT).sum()):
        where = data.folder or data.train or data.dataset
        raise UserError(f"{where}: {len(every)} lists are too few for a training and a held-out part; add some")
    return {"queries": [one.query for one in every], "documents": list(lists.documents), "kind": lists.word}, {
        "candidates": _padded([one.candidates for one in every], NONE, torch.long),
        "word": _padded([one.word or [None] * len(one.candidates) for one in every], torch.nan, torch.float64),
        "grades": _padded([one.grades or [None] * len(one.candidates) for one in every], torch.nan, torch.float64),
        "part": part,
        "judged": _judgements(every, lists.judged),
        "left_out": _pairs(every, lists.left_out),
    }


def _of_records(data: RankData) -> Lists:
    if data.dataset is not None:
        return read_named_lists(data.dataset, split=data.train_split, name=data.name, heldout_split=data.heldout_split)
    assert data.train is not None
    return read_lists(Path(data.train), None if data.heldout is None else Path(data.heldout))


def first_of_each(parts: Sequence[int], limit: int | None) -> list[int]:
    """Places of the first `limit` entries of every part; of all without a limit."""
    seen: dict[int, int] = {}
    kept = []
    for place, part in enumerate(parts):
        seen[part] = seen.get(part, 0) + 1
        if limit is None or seen[part] <= limit:
            kept.append(place)
    return kept


def _of_folder(context: RankContext, found: RetrievalFolder) -> tuple[Lists, list[int]]:
    """Lists of a retrieval set with the part of each: mined candidates with their grades (unjudged: 0), or the judged
    documents, whose grades are also the teacher's tiers. Queries with fewer than two candidates are left out."""
    data = context.recipe.data
    numbers = _queries_of(found, data)
    parts = [_PARTS[found.parts[number]] if found.parts else TRAIN for number in numbers]
    left_out = [found.left_out.get(number, frozenset()) for number in numbers]
    lists: list[RankedList] = []
    parts_of_lists: list[int] = []
    judged_of: dict[str, dict[int, float]] = {}
    left_out_of: dict[str, frozenset[int]] = {}
    candidates = _candidates(context, found, numbers, left_out)
    for number, part, never, own in zip(numbers, parts, left_out, candidates, strict=True):
        if len(own) < 2:
            continue
        query, judged = found.queries[number], found.judged.get(number, {})
        grades = tuple(judged.get(document, 0.0) for document in own)
        one = RankedList(query=query, candidates=tuple(own), grades=grades)
        lists.append(replace(one, word=grades, kind="tiers") if data.pool == "judged" else one)
        parts_of_lists.append(part)
        # Two queries of one text share what is known of it.
        judged_of.setdefault(query, {}).update(judged)
        left_out_of[query] = left_out_of.get(query, frozenset()) | never
    return Lists(documents=found.documents, train=tuple(lists), judged=judged_of, left_out=left_out_of), parts_of_lists


def _queries_of(found: RetrievalFolder, data: RankData) -> list[int]:
    """Numbers of the queries that are in a part (of all without parts), and judged if the pool is; `limit` per part."""
    numbers = [number for number in range(len(found.queries)) if not found.parts or number in found.parts]
    if data.pool == "judged":
        numbers = [number for number in numbers if number in found.judged]
    parts = [_PARTS[found.parts[number]] if found.parts else TRAIN for number in numbers]
    return [numbers[place] for place in first_of_each(parts, data.limit)]


def _candidates(
    context: RankContext, found: RetrievalFolder, numbers: Sequence[int], left_out: Sequence[frozenset[int]]
) -> list[list[int]]:
    """Numbers of each query's documents."""
    data = context.recipe.data
    if data.pool == "judged":
        return [sorted(found.judged[number].keys() - never) for number, never in zip(numbers, left_out, strict=True)]
    return mined(
        [found.queries[number] for number in numbers],
        found.documents,
        count=data.candidates,
        left_out=left_out,
        dense_model=data.dense_model,
        device=context.device,
    )


def _split(queries: Sequence[str], parts: Sequence[int], data: RankData, *, seed: int) -> Tensor:
    """The parts that the data name; else a held-out share of the different queries, drawn with the seed."""
    part = torch.tensor(list(parts), dtype=torch.long)
    if bool((part == HELDOUT).any()):
        trained_on = {query for query, where in zip(queries, parts, strict=True) if where != HELDOUT}
        held = [query for query, where in zip(queries, parts, strict=True) if where == HELDOUT]
        if shared := sum(query in trained_on for query in held):
            console.print(f"[yellow]{shared} of {len(held)} held-out queries are also in the training data[/yellow]")
        return part
    part[drawn(queries, round(len(set(queries)) * data.heldout_fraction), seed=seed)] = HELDOUT
    return part


def _padded(rows: Sequence[Sequence[Any]], fill: float | int, dtype: torch.dtype) -> Tensor:
    """One row per list, filled up to the longest; None is the filling, too."""
    filled = [torch.tensor([fill if value is None else value for value in row], dtype=dtype) for row in rows]
    return pad_sequence(filled, batch_first=True, padding_value=fill)


def _judgements(lists: Sequence[RankedList], judged: Mapping[str, Mapping[int, float]]) -> Tensor:
    found = [
        (row, document, grade) for row, one in enumerate(lists) for document, grade in judged.get(one.query, {}).items()
    ]
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 3)


def _pairs(lists: Sequence[RankedList], left_out: Mapping[str, frozenset[int]]) -> Tensor:
    found = [(row, document) for row, one in enumerate(lists) for document in sorted(left_out.get(one.query, ()))]
    return torch.tensor(found, dtype=torch.long).reshape(-1, 2)


def _counts(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, int]:
    part = tensors["part"]
    return {
        "queries_train": int((part != HELDOUT).sum()),
        "queries_heldout": int((part == HELDOUT).sum()),
        "documents": len(about["documents"]),
        "judgements": len(tensors["judged"]),
    }
