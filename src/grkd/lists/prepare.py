"""The first stage: lists read or mined, split, counted, and kept as tensors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from grkd.console import console
from grkd.data.lists import Lists, RankedList, read_lists, read_named_lists
from grkd.data.retrieval_folder import RetrievalFolder, read_retrieval_folder
from grkd.errors import UserError
from grkd.files import whole_file, write_json
from grkd.lists.context import HELDOUT, NONE, TRAIN, VALIDATION, RankContext
from grkd.lists.mine import mined
from grkd.recipe import RankData
from grkd.run.folder import identity

_PARTS = {"train": TRAIN, "validation": VALIDATION, "test": HELDOUT}


def prepare(context: RankContext) -> Path:
    """Leave counts.json, lists.json (texts) and lists.safetensors (see PreparedLists)."""
    inputs = {"data": identity(context.recipe.data), "seed": context.seed}

    def make(work: Path) -> None:
        if context.run.ranks.is_main_process:
            about, tensors = read(context)
            write_json(work / "lists.json", about)
            write_json(work / "counts.json", _counts(about, tensors))
            with whole_file(work / "lists.safetensors") as aside:
                save_file({name: value.contiguous() for name, value in tensors.items()}, aside)

    return context.run.stage("prepare", inputs, make, quick=True)


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
        "word": _padded([one.word or () for one in every], torch.nan, torch.float64, like=every),
        "grades": _padded([one.grades or () for one in every], torch.nan, torch.float64, like=every),
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
    """Lists of a retrieval set: mined candidates with their grades (unjudged: 0), or the judged documents."""
    data = context.recipe.data
    numbers = [number for number in range(len(found.queries)) if found.parts.get(number) or not found.parts]
    numbers = [number for number in numbers if number in found.judged] if data.pool == "judged" else numbers
    known = [_PARTS[found.parts[one]] if found.parts else TRAIN for one in numbers]
    numbers = [numbers[one] for one in first_of_each(known, data.limit)]
    queries = [found.queries[one] for one in numbers]
    left_out = [found.left_out.get(one, frozenset()) for one in numbers]
    if data.pool == "judged":
        several = [sorted(found.judged[one].keys() - out) for one, out in zip(numbers, left_out, strict=True)]
    else:
        several = mined(
            queries,
            found.documents,
            count=data.candidates,
            left_out=left_out,
            dense_model=data.dense_model,
            device=context.device,
        )
    lists: list[RankedList] = []
    parts: list[int] = []
    judged: dict[str, dict[int, float]] = {}
    out: dict[str, frozenset[int]] = {}
    for place, number in enumerate(numbers):
        if len(several[place]) < 2:
            continue
        grades = tuple(found.judged.get(number, {}).get(one, 0.0) for one in several[place])
        own = {"word": grades, "kind": "tiers"} if data.pool == "judged" else {}
        lists.append(RankedList(query=queries[place], candidates=tuple(several[place]), grades=grades, **own))  # type: ignore[arg-type]
        parts.append(_PARTS[found.parts[number]] if found.parts else TRAIN)
        judged.setdefault(queries[place], {}).update(found.judged.get(number, {}))
        out[queries[place]] = out.get(queries[place], frozenset()) | left_out[place]
    return Lists(documents=found.documents, train=tuple(lists), judged=judged, left_out=out), parts


def _split(queries: Sequence[str], parts: Sequence[int], data: RankData, *, seed: int) -> Tensor:
    """The parts that the data name; else a held-out share of the different queries, drawn with the seed."""
    part = torch.tensor(list(parts), dtype=torch.long)
    if bool((part == HELDOUT).any()):
        trained_on = {query for query, where in zip(queries, parts, strict=True) if where != HELDOUT}
        held = [query for query, where in zip(queries, parts, strict=True) if where == HELDOUT]
        if shared := sum(query in trained_on for query in held):
            console.print(f"[yellow]{shared} of {len(held)} held-out queries are also in the training data[/yellow]")
        return part
    different = list(dict.fromkeys(queries))
    count = round(len(different) * data.heldout_fraction)
    drawn = torch.randperm(len(different), generator=torch.Generator().manual_seed(seed))[:count]
    heldout = {different[place] for place in drawn.tolist()}
    part[torch.tensor([query in heldout for query in queries], dtype=torch.bool)] = HELDOUT
    return part


def _padded(
    rows: Sequence[Sequence[Any]], fill: float | int, dtype: torch.dtype, like: Sequence[RankedList] = ()
) -> Tensor:
    width = max(len(one.candidates) for one in like) if like else max(map(len, rows))
    table = torch.full((len(rows), width), fill, dtype=dtype)
    for row, values in enumerate(rows):
        filled = [fill if value is None else value for value in values]
        table[row, : len(filled)] = torch.tensor(filled, dtype=dtype)
    return table


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
