"""A retrieval set in a folder as BEIR has it: corpus.jsonl, queries.jsonl, judgements in qrels."""

import gzip
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grkd.data.text_rows import json_rows
from grkd.errors import UserError
from grkd.files import read_bytes, read_text

_JUDGEMENT = 3  # columns: query, document, grade
_LARGEST_GRADE = 1000.0
_PARTS = {"train": "train", "validation": "validation", "dev": "validation", "test": "test", "heldout": "test"}


@dataclass(frozen=True, kw_only=True)
class RetrievalFolder:
    """The texts by number. judged: query number -> document number -> grade. parts: query number -> "train",
    "validation" or "test", empty if the folder has no split. left_out: query number -> documents never ranked."""

    documents: tuple[str, ...]
    queries: tuple[str, ...]
    judged: dict[int, dict[int, float]]
    parts: dict[int, str]
    left_out: dict[int, frozenset[int]] = field(default_factory=dict)


def read_retrieval_folder(folder: Path, *, split: str | None = None) -> RetrievalFolder:
    """Read corpus.jsonl, queries.jsonl (either may end in .gz) and the judgements.

    Texts: {"_id" or "id", "text"} and an optional "title". Judgements: qrels/train.tsv, dev.tsv, test.tsv, which split
    the queries; or one qrels.tsv, and split.tsv (query, and a column per split; `split` names the column, else the
    first). Columns of qrels: query, document, grade, with a header. left_out.tsv or source_documents.tsv: pairs of
    query and document that are never ranked, such as the document that a query was written from.
    Raises UserError with file and line.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one with corpus.jsonl, queries.jsonl and qrels.tsv")
    documents, numbers = _texts(_file(folder, "corpus.jsonl"))
    queries, query_numbers = _texts(_file(folder, "queries.jsonl"), empty=False)
    judged: dict[int, dict[int, float]] = {}
    parts: dict[int, str] = {}
    for path, part in _qrels(folder):
        for where, row in _table(path, _JUDGEMENT, query_numbers):
            query, document = _known(where, row[0], query_numbers), _known(where, row[1], numbers)
            grade = _grade(where, row[2])
            if judged.setdefault(query, {}).setdefault(document, grade) != grade:
                pair = f"query {row[0][:40]!r} and document {row[1][:40]!r}"
                raise UserError(f"{where}: {pair} have another grade before; keep one")
            if part is not None and parts.setdefault(query, part) != part:
                raise UserError(f"{where}: query {row[0][:40]!r} is also in {parts[query]}; keep it in one part")
    if not parts and (folder / "split.tsv").is_file():
        parts = _split(folder / "split.tsv", split, query_numbers)
    elif split is not None:
        raise UserError(f"{folder}: data.split names a column of split.tsv, and the judgements have no such file")
    return RetrievalFolder(
        documents=documents,
        queries=queries,
        judged=judged,
        parts=parts,
        left_out=_left_out(folder, query_numbers, numbers),
    )


def _file(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"{folder}: has no {name} (nor {name}.gz); a retrieval set needs corpus, queries and qrels")


def _texts(path: Path, *, empty: bool = True) -> tuple[tuple[str, ...], dict[str, int]]:
    texts: list[str] = []
    numbers: dict[str, int] = {}
    for where, _, row in json_rows(path, _content(path), wanted="_id and text"):
        name = row.get("_id", row.get("id"))
        text = row.get("text")
        if isinstance(name, bool) or not isinstance(name, str | int) or not isinstance(text, str) or name == "":
            raise UserError(f"{where}: expected _id (or id), text or a whole number, and text")
        title = row.get("title")
        if title is not None and not isinstance(title, str):
            raise UserError(f"{where}: title must be text")
        if str(name) in numbers:
            raise UserError(f"{where}: the id {str(name)[:40]!r} appears twice")
        whole = f"{title} {text}".strip() if title else text.strip()
        if not whole and not empty:
            raise UserError(f"{where}: text is empty; fill it in, or drop {str(name)[:40]!r} and its judgements")
        numbers[str(name)] = len(texts)
        texts.append(whole)
    if not texts:
        raise UserError(f"{path}: no texts in it")
    return tuple(texts), numbers


def _content(path: Path) -> str:
    """The text of a file, which may be compressed where its name ends in .gz."""
    if path.suffix != ".gz":
        return read_text(path, "a text file")
    try:
        return gzip.decompress(read_bytes(path)).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged, not UTF-8 text in gzip ({' '.join(str(error).split())[:100]})") from None


def _qrels(folder: Path) -> Iterator[tuple[Path, str | None]]:
    if (folder / "qrels.tsv").is_file():
        yield folder / "qrels.tsv", None
        return
    found = sorted((folder / "qrels").glob("*.tsv"))
    if not found:
        raise UserError(f"{folder}: has no judgements; expected qrels.tsv, or train.tsv and test.tsv in qrels/")
    for path in found:
        yield path, _part(str(path), path.stem)


def _table(path: Path, columns: int, queries: Mapping[str, int]) -> Iterator[tuple[str, list[str]]]:
    """Rows behind the header; TREC's own four columns (query, 0, document, grade) lose the second.

    queries: their ids; a first line with one is no header, and would be lost. Raises UserError for such a line.
    """
    # Plain columns: in TSV a quotation mark is a character as any other.
    for number, line in enumerate(read_text(path, "a table").split("\n"), start=1):
        row = line.rstrip("\r").split("\t")
        if number == 1 and columns == _JUDGEMENT and _is_number(row[-1]):
            raise UserError(f"{path}, line 1: is a judgement; put a header line before it (query, document, grade)")
        if number == 1 and row[0] in queries:
            raise UserError(
                f"{path}, line 1: begins with the id of a query; put a line with names of columns before it"
            )
        if number == 1 or row == [""]:
            continue
        if len(row) == columns + 1 and row[1] == "0":
            row = [row[0], *row[2:]]
        if len(row) < columns:
            raise UserError(f"{path}, line {number}: expected {columns} columns separated by tabs, got {len(row)}")
        yield f"{path}, line {number}", row


def _known(where: str, name: str, numbers: dict[str, int]) -> int:
    if name not in numbers:
        raise UserError(f"{where}: there is no query or document with the id {name[:40]!r}")
    return numbers[name]


def _grade(where: str, text: str) -> float:
    """The grade; a negative one, by which TREC marks junk, is 0."""
    if not _is_number(text) or not abs(float(text)) <= _LARGEST_GRADE:
        raise UserError(f"{where}: expected a number up to 1000 as the grade, got {text[:40]!r}")
    if float(text) != int(float(text)):  # retrieval measures know no others, and would cut it off
        raise UserError(f"{where}: expected a whole number as the grade, got {text[:40]!r}; round it")
    return max(float(text), 0.0)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split(path: Path, column: str | None, numbers: dict[str, int]) -> dict[int, str]:
    header = read_text(path, "a table").partition("\n")[0].rstrip("\r").split("\t")
    columns = header[1:]
    column = columns[0] if column is None and columns else column
    if column not in columns:
        raise UserError(f"{path}: data.split: there is no column {column!r}; columns: {', '.join(columns)}")
    place = header.index(str(column))
    return {_known(where, row[0], numbers): _part(where, row[place]) for where, row in _table(path, place + 1, numbers)}


def _part(where: str, name: str) -> str:
    if name in _PARTS:
        return _PARTS[name]
    raise UserError(f"{where}: unknown part {name[:40]!r}; known: train, validation (or dev), test")


def _left_out(folder: Path, queries: dict[str, int], documents: dict[str, int]) -> dict[int, frozenset[int]]:
    found: dict[int, set[int]] = {}
    for name in ("left_out.tsv", "source_documents.tsv"):
        if (folder / name).is_file():
            for where, row in _table(folder / name, 2, queries):
                found.setdefault(_known(where, row[0], queries), set()).add(_known(where, row[1], documents))
    return {query: frozenset(several) for query, several in found.items()}
