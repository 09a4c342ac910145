"""Questions and the opponent's answers of the two benchmarks that compare answers, from the user's folder."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.benchmarks.mt_bench import spread
from grkd.errors import UserError
from grkd.files import parse_json

ARENA_BASELINE = "gpt-4-0314"
_ALPACA = "get alpaca_eval/ (reference_outputs_gpt4_1106_preview.json) from github.com/tatsu-lab/alpaca_eval, results/"
_ARENA = (
    "get arena_hard/ (question.jsonl, model_answer/gpt-4-0314.jsonl) from github.com/lmarena/arena-hard-auto, data/"
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A question and the answer that the model's answer is compared with. row: the benchmark's own record."""

    id: str
    question: str
    baseline: str
    row: dict[str, Any]


def alpaca_items(data: Path, limit: int | None) -> list[Comparison]:
    """AlpacaEval's instructions with the reference's outputs, `limit` of them spread evenly over the file."""
    path = _found(data / "alpaca_eval" / "reference_outputs_gpt4_1106_preview.json", _ALPACA)
    try:
        rows = parse_json(_text(path))
        items = [
            Comparison(id=str(number), question=row["instruction"], baseline=row["output"], row=row)
            for number, row in enumerate(rows)
        ]
    except (ValueError, KeyError, TypeError, OSError):
        raise UserError(f"{path}: not a list of instruction, output and generator; {_ALPACA}") from None
    return spread(items, limit)


def arena_items(data: Path, limit: int | None) -> list[Comparison]:
    """Arena-Hard's questions with the baseline's answers, `limit` of them spread evenly over the file."""
    folder = data / "arena_hard"
    path = _found(folder / "question.jsonl", _ARENA)
    answers = _found(folder / "model_answer" / f"{ARENA_BASELINE}.jsonl", _ARENA)
    try:
        baseline = dict(map(_answer, _lines(answers)))
    except (ValueError, KeyError, TypeError, IndexError, OSError):
        raise UserError(f"{answers}: not the answers of {ARENA_BASELINE}, one JSON object a line; {_ARENA}") from None
    items = []
    for number, row in enumerate(_questions(path), start=1):
        name = row.get("uid", row.get("question_id"))
        question = row.get("prompt") or (row.get("turns") or [{}])[0].get("content")
        if name is None or question is None:
            raise UserError(f"{path}, question {number}: no uid or no prompt in it; {_ARENA}")
        if name not in baseline:
            raise UserError(f"{answers}: no answer to question {name}; {_ARENA}")
        items.append(Comparison(id=str(name), question=question, baseline=baseline[name], row=row))
    return spread(items, limit)


def _questions(path: Path) -> list[dict[str, Any]]:
    try:
        return _lines(path)
    except ValueError:
        raise UserError(f"{path}: not one JSON object a line; {_ARENA}") from None


def _answer(row: dict[str, Any]) -> tuple[str, str]:
    """Id and text of an answer, in the benchmark's newer or older form."""
    if "uid" in row:
        content = row["messages"][-1]["content"]
        return row["uid"], content["answer"] if isinstance(content, dict) else content
    return row["question_id"], row["choices"][0]["turns"][0]["content"]


def _lines(path: Path) -> list[dict[str, Any]]:
    rows = [parse_json(line) for line in _text(path).split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no object")
    return rows


def _text(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")


def _found(path: Path, where: str) -> Path:
    """The file, or the same compressed. Raises UserError that says where to get it."""
    packed = path.with_name(path.name + ".gz")
    for candidate in (path, packed):
        if candidate.is_file():
            return candidate
    raise UserError(f"{path}: no such file; {where}, and name the folder above with --data")
