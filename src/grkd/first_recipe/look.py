"""What data are, from a look at the first records: the task, the kind, and the recipe's data section."""

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from grkd.data.sources import FORMATS, named_records, numbered_records
from grkd.data.text_rows import SEPARATORS, delimited_rows
from grkd.errors import UserError, nearest
from grkd.files import read_text
from grkd.first_recipe.columns import classes_of, labelled, ranked, table_of_images

Task = Literal["language_model", "classifier", "rank"]
Kind = Literal[
    "prompts", "answers", "pairs", "groups", "unknown", "texts", "images", "built in", "lists", "retrieval"
]  # "unknown": a data set by name that cannot be read now
Placed = tuple[str, Any]  # where a record stands, for errors, and itself
_LOOKED_AT = 200  # records
_CONVERSATION = ("messages", "conversations", "prompt", "chosen")
_HELD_OUT = ("heldout", "held_out", "test", "validation", "valid", "val", "dev", "eval")
_RENAMED = {"instruction": "prompt", "question": "prompt", "input": "prompt", "output": "completion"}
_RENAMED |= {"response": "completion", "answer": "completion"}
_ALPACA = (  # the command that writes records of instruction, input and output as prompts with completions
    """python -c 'import json, sys; [print(json.dumps({"prompt": "\\n\\n".join(filter(None, (r["instruction"], """
    """r.get("input")))), "completion": r["output"]})) for r in %s]' < %s > prompts.jsonl"""
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Data as they were found.

    section: the recipe's data section. about: in words. longest: characters of the longest answer. n: responses of the
    smallest group. scored: every group has scores. word: of lists, what they say of the candidates' order; of
    texts, the column with classes, best first, if there is one.
    """

    task: Task
    kind: Kind
    section: dict[str, Any]
    about: str
    longest: int = 0
    n: int = 1
    scored: bool = False
    word: str | None = None
    classes: list[str] = field(default_factory=list)


def look(data: str, heldout: str | None = None) -> Found:
    """What is at a path or under a data set's name.

    Raises UserError for a path that leads nowhere, and for records of no known form, with the keys that were found.
    """
    if data == "digits":
        section = {"dataset": "digits"}
        return Found(task="classifier", kind="built in", section=section, about="scikit-learn's handwritten digits")
    path = Path(data).expanduser()
    if path.is_dir():
        return _folder(path, heldout)
    if path.is_file():
        return _file(path, Path(heldout).expanduser() if heldout else _beside(path))
    if path.suffix or data.startswith((".", "~")) or data.count("/") != 1 or not data.strip("/").count("/"):
        raise UserError(
            f"{data}: no such file or folder; give a data file or folder, or the name of a data set such as org/name"
        )
    if heldout:
        raise UserError(f"--heldout: {data} is a data set by name; write data.heldout_split into the recipe instead")
    return _named(data)


def _folder(path: Path, heldout: str | None) -> Found:
    if any((path / name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz")):
        return Found(task="rank", kind="retrieval", section={"folder": path}, about="a retrieval set")
    tables = sorted(one for one in path.iterdir() if one.suffix.lower() in (".jsonl", *SEPARATORS, *FORMATS))
    trained_on = [one for one in tables if one.stem.lower() not in _HELD_OUT]
    if len(trained_on) == 1:
        return _file(trained_on[0], Path(heldout).expanduser() if heldout else _beside(trained_on[0]))
    if trained_on:
        names = ", ".join(one.name for one in trained_on[:6])
        raise UserError(f"{path}: several data files in it ({names}); give one of them, and another with --heldout")
    if any(one.is_dir() and not one.name.startswith(".") for one in path.iterdir()):
        from grkd.data.labelled_images import class_names

        classes = class_names(path)
        about = f"images of {len(classes)} classes"
        return Found(task="classifier", kind="images", section={"image_folder": path}, about=about, classes=classes)
    raise UserError(f"{path}: no data in it; expected JSONL, CSV or Parquet files, a folder per class, or corpus.jsonl")


def _beside(path: Path) -> Path | None:
    """The held-out file that lies beside one called train."""
    names = (path.with_name(f"{name}{path.suffix}") for name in _HELD_OUT)
    return next((one for one in names if one.is_file()), None) if path.stem.lower().startswith("train") else None


def _file(path: Path, heldout: Path | None) -> Found:
    """The kind of a file's records. Raises UserError for a held-out file that is not there."""
    if heldout is not None and not heldout.is_file():
        raise UserError(f"--heldout: {heldout}: no such file")
    section: dict[str, Any] = {"train": path} | ({"heldout": heldout} if heldout else {})
    records = list(itertools.islice(_records(path), _LOOKED_AT))
    found = _kind(records, section, str(path), path)
    if not found.classes:
        return found
    every = (record for _, record in _records(path) if isinstance(record, dict))  # files are often sorted by class
    return replace(found, classes=classes_of(every, found.section["label"]))


def _named(name: str) -> Found:
    """A data set by name, read as far as it can be without a copy on disk."""
    try:
        read = named_records(name, split="train", streaming=True)
        records = [(f"{name}[{at}]", one) for at, one in enumerate(itertools.islice(read, _LOOKED_AT))]
    except UserError as error:
        about = f"a data set by name that could not be looked at now ({str(error)[:80]} ...)"
        return Found(task="language_model", kind="unknown", section={"dataset": name}, about=about)
    found = _kind(records, {"dataset": name}, name, None)
    if found.task == "classifier":
        raise UserError(f"{name}: {found.about}; classifiers read no data set by name: save it as CSV or JSONL")
    return found


def _records(path: Path) -> Iterator[Placed]:
    """Records of a file; only the first lines of JSONL and CSV are parsed."""
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:  # an empty cell is a text here
        return delimited_rows(path, read_text(path, "a CSV, JSONL or Parquet file"))
    if suffix not in (".jsonl", *FORMATS):
        raise UserError(f"{path}: unknown kind of file {suffix!r}; give JSONL, CSV, TSV, JSON or Parquet")
    return ((where, record) for where, _, record in numbered_records(path, "a JSONL file"))


def _kind(placed: list[Placed], section: dict[str, Any], name: str, path: Path | None) -> Found:
    placed = [(where, record) for where, record in placed if isinstance(record, dict)]
    records = [record for _, record in placed]
    if not records:
        raise UserError(f"{name}: no records in it; a record is a JSON object, or a row below a header")
    keys = {str(key) for record in records for key, value in record.items() if value is not None}
    if {"query", "candidates"} <= keys:
        words = ("scores", "order", "tiers", "grades")
        known = [word for word in words if all(record.get(word) is not None for record in records)]
        word = known[0] if known else None
        return Found(task="rank", kind="lists", section=section, about="lists of candidates", word=word)
    if "query" in keys and (near := nearest("candidates", keys - {"query"}, at_least=0.8)):
        raise UserError(f"{name}: records with query and {near!r}; lists need 'candidates', rename {near!r}")
    if keys & set(_CONVERSATION):
        return _conversations(placed, section, keys)
    if path is not None and path.suffix.lower() in (".csv", ".tsv", ".jsonl"):
        if (images := table_of_images(records, path)) is not None:
            return Found(task="classifier", kind="images", section=section | images[0], about=images[1])
        if path.suffix.lower() == ".jsonl" and (orders := ranked(records)) is not None:
            section = section | orders[0]
            return Found(task="classifier", kind="texts", section=section, about=orders[1], word=orders[2])
        if (texts := labelled(records)) is not None:
            return Found(task="classifier", kind="texts", section=section | texts[0], about=texts[1], classes=texts[2])
    of = name if path is None else path.name  # not the whole path: a long one would have the command cut
    given = ", ".join(sorted(keys)[:8])
    raise UserError(f"{of}: records with the keys {given} are of no known form; {_hint(keys, path)}")


def _hint(keys: set[str], path: Path | None) -> str:
    """How to turn records of these keys into a known form."""
    if {"instruction", "input", "output"} <= keys:
        reader = {".jsonl": "map(json.loads, sys.stdin)", ".json": "json.load(sys.stdin)"}
        if path is not None and path.suffix.lower() in reader:
            return f"turn them: {_ALPACA % (reader[path.suffix.lower()], shlex.quote(path.name))}"
        return "join instruction and input into one column, prompt, and rename output to completion"
    header = "".join(keys) if len(keys) == 1 and path is not None and path.suffix.lower() in SEPARATORS else ""
    if other := next((mark for mark in (";", "\t", "|", ",") if mark in header), None):
        return f"its columns seem to be separated by {other!r}: save it with commas, or as .tsv with tabs"
    renamed: dict[str, str] = {}
    for key in (one for one in _RENAMED if one in keys):
        renamed.setdefault(_RENAMED[key], key)  # one column per new name
    return (
        f"rename {' and '.join(f'{old} to {new}' for new, old in renamed.items())}"
        if renamed
        else "docs/guide/data.md has the forms"
    )


def _conversations(placed: list[Placed], section: dict[str, Any], keys: set[str]) -> Found:
    from grkd.data.conversation import shown
    from grkd.data.records import examples_of

    examples = [one for where, record in placed for one in examples_of(record, default_id=where, where=where)]
    answers = [answer for one in examples for answer in one.answers]
    longest = max((len(answer if isinstance(answer, str) else shown(answer)) for answer in answers), default=0)
    groups = [len(one.responses) for one in examples if one.responses]
    if groups and len(groups) == len(examples):
        scored = all(one.scores is not None for one in examples)
        kind: Kind = "pairs" if "chosen" in keys else "groups"
        about = "preference pairs" if kind == "pairs" else "groups of responses" + (" with scores" if scored else "")
        n = min(groups)
    else:
        answered = all(one.answers or one.record for one in examples)
        kind, n, scored = ("answers" if answered else "prompts"), 1, False
        about = "conversations with answers" if answered else "prompts, answers for some of them or none"
    return Found(
        task="language_model", kind=kind, section=section, about=about, longest=longest, n=n, scored=scored
    )  # fmt: skip
