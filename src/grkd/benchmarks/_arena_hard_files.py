"""Arena-Hard's questions with the baseline's answers, from the user's folder."""

from pathlib import Path
from typing import Any

from grkd.benchmarks._data_files import ComparedQuestion, found_file, json_lines, spread
from grkd.errors import UserError

BASELINE = "gpt-4-0314"

_WHERE = (
    "get arena_hard/ (question.jsonl, model_answer/gpt-4-0314.jsonl) from github.com/lmarena/arena-hard-auto, data/"
)


def read_questions(data: Path, limit: int | None) -> list[ComparedQuestion]:
    """Arena-Hard's questions with the baseline's answers, `limit` of them spread evenly over the file."""
    folder = data / "arena_hard"
    path = found_file(folder / "question.jsonl", _WHERE)
    answers = found_file(folder / "model_answer" / f"{BASELINE}.jsonl", _WHERE)
    try:
        baseline = dict(map(_answer, json_lines(answers)))
    except (ValueError, KeyError, TypeError, IndexError, OSError):
        raise UserError(f"{answers}: not the answers of {BASELINE}, one JSON object per line; {_WHERE}") from None
    items = []
    for number, row in enumerate(_questions(path), start=1):
        name = row.get("uid", row.get("question_id"))
        question = row.get("prompt") or (row.get("turns") or [{}])[0].get("content")
        if name is None or question is None:
            raise UserError(f"{path}, question {number}: no uid or no prompt in it; {_WHERE}")
        if name not in baseline:
            raise UserError(f"{answers}: no answer to question {name}; {_WHERE}")
        items.append(ComparedQuestion(id=str(name), question=question, baseline=baseline[name], row=row))
    return spread(items, limit)


def _questions(path: Path) -> list[dict[str, Any]]:
    try:
        return json_lines(path)
    except ValueError:
        raise UserError(f"{path}: not one JSON object per line; {_WHERE}") from None


def _answer(row: dict[str, Any]) -> tuple[str, str]:
    """Id and text of an answer, in the benchmark's newer or older form."""
    if "uid" in row:
        content = row["messages"][-1]["content"]
        return row["uid"], content["answer"] if isinstance(content, dict) else content
    return row["question_id"], row["choices"][0]["turns"][0]["content"]
