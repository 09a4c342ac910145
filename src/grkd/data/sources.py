"""Where records come from: JSONL, JSON and CSV files, and through `datasets` Parquet files and data sets by name."""

import importlib.util
import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.markup import escape

from grkd import hub
from grkd.console import console
from grkd.data.prompts import Example, Turns
from grkd.data.record_groups import all_the_same
from grkd.data.records import examples_of, meant_key
from grkd.data.text_rows import SEPARATORS, delimited_rows, json_rows
from grkd.errors import UserError
from grkd.files import NotJSON, parse_json, read_text

FORMATS = (".parquet", ".json")
Numbered = tuple[str, int, Any]  # where a record stands, for errors, its number, and itself
_SHOWN_KEYS = 8
_WANTED = "a JSONL, Parquet, JSON or CSV file of prompts"


def read_examples(
    path: Path,
    *,
    limit: int | None = None,
    groups: bool = True,
    turns: Turns = "all",
    read: Collection[str] | None = (),
) -> list[Example]:
    """The prompts of a file's records (see `examples_of`), of the first `limit` records where given.

    JSONL: an object per line, blank lines skipped. CSV and TSV: every cell is text, an empty one is not there. JSON: a
    list of objects. Parquet files are read through `datasets`. The ending decides. An id must be unique; without one it
    is the line's number in JSONL, else the record's.
    Keys that nothing reads are named in one line. read: other keys that something reads, such as rankers; None: all may
    be read. Raises UserError with file and line for what is no such record.
    """
    return _gathered(numbered_records(path), str(path), limit=limit, groups=groups, turns=turns, read=read)


def gathered(
    records: Iterable[Any],
    name: str,
    *,
    limit: int | None = None,
    groups: bool = True,
    turns: Turns = "all",
    unique: bool = True,
    read: Collection[str] | None = (),
) -> list[Example]:
    """The same of records that are there already; `name` is what errors call them, with the record's number.

    unique=False: ids may come twice.
    """
    return _gathered(_numbered(records, name), name, limit=limit, groups=groups, turns=turns, unique=unique, read=read)


def numbered_records(path: Path, wanted: str = _WANTED) -> Iterator[Numbered]:
    """Records of a file of any of the forms; the ending says which. wanted: what errors say to give."""
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        yield from _numbered(file_records(path), str(path), start=1)
    elif suffix in SEPARATORS:
        rows = delimited_rows(path, read_text(path, wanted), check_header=_check_header)
        for number, (where, row) in enumerate(rows, start=1):
            yield where, number, {name: cell or None for name, cell in row.items()}
    else:
        yield from json_rows(path, read_text(path, wanted))


def file_records(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a Parquet or JSON file.

    JSON is not read through `datasets`, which gives every column one type: where texts stand beside numbers or lists,
    all of them become JSON text, and texts that look like dates become dates.
    """
    if path.suffix.lower() == ".json":
        yield from _json_records(path)
        return
    datasets = _library(str(path))
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a JSONL, Parquet, JSON or CSV file of prompts")
    try:
        yield from datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)
    except Exception as error:  # readers of damaged files raise anything
        raise UserError(f"{path}: cannot be read ({_short(error)}); repair the file") from None


def named_records(
    dataset: str, *, split: str, name: str | None = None, streaming: bool = False
) -> Iterator[dict[str, Any]]:
    """Records of a split of a data set: a name on the hub, or a local folder as `datasets` reads it.

    name: the data set's configuration. streaming: records come as they are read, without a copy on disk.
    Raises UserError for a data set or split that cannot be had.
    """
    datasets = _library(dataset)
    hub.look_for(dataset)
    with _loading(dataset, split):
        found = datasets.load_dataset(dataset, name, split=split, streaming=streaming)
    return _read_on(found, dataset, split)


def _read_on(found: Iterable[dict[str, Any]], dataset: str, split: str) -> Iterator[dict[str, Any]]:
    """The records; of a streamed set most are loaded only here."""
    with _loading(dataset, split):
        yield from found


@contextmanager
def _loading(dataset: str, split: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # readers of data sets raise anything
        raise UserError(
            f"data.dataset {dataset!r}, split {split!r}: cannot be loaded ({_short(error)}); "
            "check dataset, name and split, the network and access rights"
        ) from None


def split_of(records: Any, split: str | None, where: str, option: str) -> Any:
    """The records themselves, or a split of a dict of splits; raises UserError if none is named."""
    if not isinstance(records, dict):
        return records
    if not records:
        raise UserError(f"{where}: no splits in it; give at least one record")
    names = ", ".join(map(str, records))
    if split is None:
        raise UserError(f"{where}: it has splits ({names}); give one of them, or set {option}")
    if split not in records:
        raise UserError(f"{where}: no split {split!r} among {names}; change {option}")
    return records[split]


def _library(name: str) -> Any:
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"{name}: reading it needs the datasets package: pip install 'grkd[data]', or give JSONL")
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _short(error: Exception) -> str:
    text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return text if len(text) <= 160 else f"{text[:160]} ..."


def _json_records(path: Path) -> Iterator[Any]:
    """The objects of a list, or of lines: files of JSON Lines are often named so."""
    content = read_text(path, _WANTED)
    try:
        found = parse_json(content)
    except NotJSON as error:
        if not content.lstrip().startswith("{"):
            raise UserError(f"{path}: not JSON ({error}); give a list of objects") from None
        yield from (value for _, _, value in json_rows(path, content))
        return
    yield from found if isinstance(found, list) else [found]


def _numbered(records: Iterable[Any], name: str, *, start: int = 0) -> Iterator[Numbered]:
    return ((f"{name}[{number}]", number, value) for number, value in enumerate(records, start=start))


def _check_header(header: list[str], where: str) -> None:
    if twice := next((name for name in header if header.count(name) > 1), None):
        raise UserError(f"{where}: more than one column {twice!r}; rename or drop one")


def _gathered(
    numbered: Iterable[Numbered],
    name: str,
    *,
    limit: int | None,
    groups: bool,
    turns: Turns,
    unique: bool = True,
    read: Collection[str] | None = (),
) -> list[Example]:
    examples: list[Example] = []
    place_of: dict[str, str] = {}
    same: list[str] = []
    unused: Counter[str] = Counter()
    for where, number, value in itertools.islice(numbered, limit):
        for example in examples_of(
            value, default_id=str(number), where=where, groups=groups, turns=turns, unused=unused
        ):
            if unique and example.id in place_of:
                place = place_of[example.id].removeprefix(f"{name}, ")
                raise UserError(f"{where}: id {example.id!r} is also that of {place}; make ids unique")
            place_of[example.id] = where
            if all_the_same(example.answers):
                same.append(where)
            examples.append(example)
    if not examples:
        raise UserError(f"{name}: no prompts in it; give at least one record")
    if same:
        count = "1 record" if len(same) == 1 else f"{len(same)} records (this is the first)"
        text = "the responses are all the same, so nothing can be learnt from their order"
        raise UserError(f"{same[0]}: {text}; drop or fix {count}")
    not_read = [] if read is None else sorted(set(unused) - set(read))
    if not_read and groups:
        shown = [f"{key} (did you mean {near}?)" if (near := meant_key(key)) else key for key in not_read]
        keys = ", ".join(shown[:_SHOWN_KEYS]) + (", ..." if len(not_read) > _SHOWN_KEYS else "")
        console.print(f"[yellow]{escape(f'{name}: keys that are not used: {keys}')}[/yellow]", soft_wrap=True)
    return examples
