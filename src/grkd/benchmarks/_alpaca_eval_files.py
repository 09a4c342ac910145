"""AlpacaEval's instructions with the reference's outputs, from the user's folder."""

import os
from pathlib import Path

from grkd.benchmarks._data_files import ComparedQuestion, found_file, spread, text_of
from grkd.errors import UserError
from grkd.files import parse_json

_WHERE = "get alpaca_eval/ (reference_outputs_gpt4_1106_preview.json) from github.com/tatsu-lab/alpaca_eval, results/"


def read_questions(data: Path, limit: int | None) -> list[ComparedQuestion]:
    """AlpacaEval's instructions with the reference's outputs, `limit` of them spread evenly over the file."""
    path = found_file(data / "alpaca_eval" / "reference_outputs_gpt4_1106_preview.json", _WHERE)
    try:
        rows = parse_json(text_of(path))
        items = [
            ComparedQuestion(id=str(number), question=row["instruction"], baseline=row["output"], row=row)
            for number, row in enumerate(rows)
        ]
    except (ValueError, KeyError, TypeError, OSError):
        raise UserError(f"{path}: not a list of instruction, output and generator; {_WHERE}") from None
    return spread(items, limit)


def folder_of_difficulty(annotations: Path, data: Path | None) -> Path | None:
    """Where the table for length control may be: `data`, beside the annotations, or the folder in GRKD_DATA."""
    if data is not None:
        return data
    places = [*annotations.resolve().parents[:3]]
    if os.environ.get("GRKD_DATA"):
        places.append(Path(os.environ["GRKD_DATA"]) / "llm")
    for place in places:
        for folder in (place, place / "alpaca_eval"):
            if any((folder / name).is_file() for name in ("df_gamed.csv", "df_gamed_reconstructed.csv")):
                return folder
    return None
