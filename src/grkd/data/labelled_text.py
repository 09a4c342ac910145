"""Texts with labels from a CSV, TSV or JSONL file; every error names the file and the line."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from grkd.console import console
from grkd.data.classification import ClassificationData
from grkd.data.rankings import numbered, read_ranking
from grkd.data.splits import stratified_split
from grkd.data.text_rows import delimited_rows, json_rows
from grkd.errors import UserError, meant
from grkd.files import read_text


@dataclass(frozen=True)
class _Example:
    where: str
    text: str
    label: str
    ranking: tuple[str, ...] = ()


def labelled_text(
    train: Path,
    heldout: Path | None = None,
    *,
    text: str = "text",
    label: str = "label",
    heldout_fraction: float,
    seed: int,
    ranking: str | None = None,
) -> ClassificationData:
    """Texts and labels from columns `text` and `label`; the suffix (.csv, .tsv, .jsonl) says which format.

    Without `heldout`, heldout_fraction of `train` is held out with the seed, stratified; examples with the same text
    stay on one side. Texts of a `heldout` file that are also in `train`, and texts with several labels, are reported
    with their number. Labels are words or whole numbers; class_names are sorted (as numbers where all are).
    ranking: column of JSON Lines with some classes per text, best first; a record's label is then its first class where
    it has none of its own, and a record without the column has its label alone.
    Raises UserError, with the line, for what is missing, empty, malformed or unknown.
    """
    examples = _read(train, text, label, ranking)
    class_names = _sorted(sorted({name for example in examples for name in (example.label, *example.ranking)}))
    if len(class_names) == 1:
        raise UserError(f"{train}: every {label!r} is {class_names[0]!r}; a classifier needs two classes or more")
    position = {name: index for index, name in enumerate(class_names)}
    labels = torch.tensor([position[example.label] for example in examples])
    if heldout is None:
        same: dict[str, list[int]] = {}
        for place, example in enumerate(examples):
            same.setdefault(example.text.strip(), []).append(place)
        places = list(same.values())
        parts = stratified_split(labels[[several[0] for several in places]], heldout_fraction, seed=seed)
        kept, held = (torch.tensor([one for text in part.tolist() for one in places[text]]) for part in parts)
        heldout_examples = [examples[i] for i in held.tolist()]
    else:
        kept, heldout_examples = torch.arange(len(examples)), _read(heldout, text, label, ranking)
        for example in heldout_examples:
            if example.label not in position:
                raise UserError(
                    f"{example.where}: no training example has the {label} {example.label!r}"
                    f"{meant(example.label, class_names)}"
                )
        _say_what_is_shared(examples, heldout_examples)
    _say_what_has_several_labels(examples)
    return ClassificationData(
        kind="text",
        train_inputs=[examples[i].text for i in kept.tolist()],
        train_labels=labels[kept],
        heldout_inputs=[example.text for example in heldout_examples],
        heldout_labels=torch.tensor([position[example.label] for example in heldout_examples]),
        class_names=class_names,
        train_ranking=_rankings([examples[i] for i in kept.tolist()], position, ranking),
        heldout_ranking=_rankings(heldout_examples, position, ranking),
    )


def _rankings(examples: list[_Example], position: dict[str, int], column: str | None) -> list[list[int]] | None:
    if column is None:
        return None
    return [numbered(one.ranking or (one.label,), position, one.where) for one in examples]


def _say_what_is_shared(train: list[_Example], heldout: list[_Example]) -> None:
    known = {example.text.strip() for example in train}
    if shared := sum(example.text.strip() in known for example in heldout):
        console.print(f"[yellow]{shared} of {len(heldout)} held-out texts are also in the training data[/yellow]")


def _say_what_has_several_labels(examples: list[_Example]) -> None:
    first: dict[str, str] = {}
    other = {one.text.strip() for one in examples if first.setdefault(one.text.strip(), one.label) != one.label}
    if other:
        console.print(f"[yellow]{len(other)} of {len(first)} training texts have several labels[/yellow]")


def _read(path: Path, text: str, label: str, ranking: str | None = None) -> list[_Example]:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".jsonl"):
        raise UserError(f"{path}: unknown kind of file {path.suffix!r}; use .csv, .tsv or .jsonl")
    content = read_text(path, "a CSV, TSV or JSONL file")
    needed = (text, label) if ranking is None else (text,)
    if ranking is None and suffix != ".jsonl":
        rows = delimited_rows(path, content, check_header=partial(_check_columns, needed=needed))
    else:
        rows = _json_rows(path, content, needed)
    examples = [_example(row, where, text, label, ranking) for where, row in rows]
    if not examples:
        raise UserError(f"{path}: no examples in it; it needs a line for each, with {text!r} and {label!r}")
    return examples


def _example(row: Mapping[str, Any], where: str, text: str, label: str, ranking: str | None) -> _Example:
    """A record; of one whose classes are in order its own label comes first, if it has one."""
    order: list[str] = []
    if ranking is not None and row.get(ranking) is not None:
        order = read_ranking(row[ranking], f"{where}: {ranking!r}")
    elif label not in row:
        raise UserError(f"{where}: neither {ranking!r} nor {label!r}; give one of them")
    own = order[0] if order and row.get(label) is None else _label(row[label], where, label)
    return _Example(where, _text(row[text], where, text), own, tuple(order))


def _json_rows(path: Path, content: str, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, _, row in json_rows(path, content, wanted=" and ".join(map(repr, needed))):
        _check_columns(list(row), where, needed)
        yield where, row


def _check_columns(found: list[str], where: str, needed: tuple[str, ...]) -> None:
    for name in needed:
        if found.count(name) != 1:
            problem = "no column" if name not in found else "more than one column"
            raise UserError(f"{where}: {problem} {name!r}{meant(name, found)}; found: {', '.join(found)}")


def _text(value: Any, where: str, column: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {column!r} must be a string, got {json.dumps(value)[:40]}")
    if not value.strip():
        raise UserError(f"{where}: {column!r} is empty")
    return value


def _label(value: Any, where: str, column: str) -> str:
    """The label as a string. Spaces around it are cut: "a " is no class of its own."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: {column!r} must be a string or a whole number, got {json.dumps(value)[:40]}")
    name = str(value).strip()
    if not name:
        raise UserError(f"{where}: {column!r} is empty")
    return name


def _sorted(names: list[str]) -> list[str]:
    if all(name.removeprefix("-").isdecimal() for name in names):
        return sorted(names, key=int)
    return names
