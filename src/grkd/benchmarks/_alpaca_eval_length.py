"""The calls into alpaca-eval's metric code, with the tables that it would otherwise download."""

import importlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

from grkd.errors import UserError
from grkd.files import parse_json

INSTALL = "AlpacaEval needs pip install 'grkd[eval]'"

_GAMED = ("df_gamed.csv", "df_gamed_reconstructed.csv")
_GAMED_COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty", "not_gamed_baseline")


class Table(NamedTuple):
    """The gamed baselines' table, its number of instructions, and these by text where they lie beside it."""

    path: Path
    instructions: int
    texts: dict[str, int] | None


def plain(preferences: list[float]) -> dict[str, float | None]:
    """Win rate, its standard error and the win rate of rounded preferences, in percent."""
    names = ("win_rate", "standard_error", "discrete_win_rate")
    if not preferences:
        return dict.fromkeys(names)
    with _quiet():
        metrics = _glm().get_winrate([{"preference": value} for value in preferences])
    return {name: float(metrics[name]) for name in names}


def controlled(rows: list[dict[str, Any]], table: Table | None) -> tuple[float | None, float | None, str | None]:
    """Length-controlled win rate, its standard error (both in percent), and what to know about them."""
    import pandas as pd

    if table is None:
        return (
            None,
            None,
            "length control needs df_gamed.csv: hf download --repo-type dataset tatsu-lab/alpaca_eval df_gamed.csv, "
            "or name a folder with it (--data)",
        )
    if all(row["preference"] is None for row in rows):
        return None, None, "no preference could be parsed"
    if len({len(row["output_1"]) - len(row["output_2"]) for row in rows}) < 2 and not _same_model(rows):
        return None, None, "all rows have the same difference of lengths: there is nothing to control for"
    indices, note = _indices(rows, table)
    if indices is None:
        return None, None, note
    frame = pd.DataFrame(rows).drop(columns="index", errors="ignore")
    frame.index = pd.Index(indices, name="index")
    frame = frame.sort_index()  # the folds of the fit follow the order of rows: the same rows give the same value
    glm = _glm()
    # The library asks the hub for the table whenever it is online; it is given this one instead.
    with _quiet(), mock.patch.object(glm, "hf_hub_download", return_value=str(table.path)):
        metrics = glm.get_length_controlled_winrate(frame, save_weights_dir=None, is_warn_extreme_changes=False)
    return float(metrics["length_controlled_winrate"]), float(metrics["lc_standard_error"]), note


def find_table(given: Path | None) -> Table | None:
    """The gamed baselines' table: `given`, in the folder `given`, or in the Hugging Face cache. Raises UserError."""
    if given is not None and not given.exists():
        raise UserError(f"{given}: no such file; name df_gamed.csv of the dataset tatsu-lab/alpaca_eval, or its folder")
    path = given if given is None or given.is_file() else table_in(given)
    path = path or _cached()
    if path is None:
        return None
    content = _csv(path)
    missing = [name for name in _GAMED_COLUMNS if name not in content.columns]
    if missing:
        raise UserError(f"{path}: no column {missing[0]!r} in it; there are {', '.join(map(str, content.columns))}")
    listed = path.parent / "instructions_805.jsonl"
    texts = None
    if listed.is_file():
        rows = [parse_json(line) for line in listed.read_text(encoding="utf-8").split("\n") if line]
        texts = {row["instruction"]: row["index"] for row in rows}
    return Table(path, int(content["index"].max()) + 1, texts)


def table_in(folder: Path) -> Path | None:
    """The gamed baselines' table in a folder, or in alpaca_eval/ there."""
    places = (place / name for place in (folder, folder / "alpaca_eval") for name in _GAMED)
    return next((path for path in places if path.is_file()), None)


def _cached() -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache("tatsu-lab/alpaca_eval", _GAMED[0], repo_type="dataset")
    return Path(found) if isinstance(found, str) else None


def _indices(rows: list[dict[str, Any]], table: Table) -> tuple[list[int] | None, str | None]:
    """Which of the benchmark's instructions each row is, or None; and the reason or what to know."""
    count, texts, note = table.instructions, table.texts, None
    if all("index" in row for row in rows):
        indices = [row["index"] for row in rows]
        if not all(type(index) is int and 0 <= index < count for index in indices):
            return None, f"an index is not a whole number from 0 to {count - 1}"
    elif texts is not None:
        unknown = next((number for number, row in enumerate(rows, start=1) if row["instruction"] not in texts), None)
        if unknown is not None:
            return None, f"row {unknown}: its instruction is none of the benchmark's, so its difficulty is not known"
        indices = [texts[row["instruction"]] for row in rows]
    elif len(rows) > count:
        return None, f"{len(rows)} rows for {count} instructions, and no index in them"
    else:
        indices = list(range(len(rows)))
        if len(rows) < count:
            note = f"the {len(rows)} rows were taken as the benchmark's first instructions; give them an index if not"
    if len(set(indices)) < len(indices):
        return None, "an instruction occurs twice"
    return indices, note


def _same_model(rows: list[dict[str, Any]]) -> bool:
    return bool(rows[0]["generator_1"] == rows[0]["generator_2"])


def _csv(path: Path) -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise UserError(f"{INSTALL} ({error})") from None
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable CSV file ({' '.join(str(error).split())})") from None


@cache
def _glm() -> ModuleType:
    """alpaca_eval.metrics.glm_winrate, imported without reading any .env file on the way."""
    try:
        with warnings.catch_warnings(), mock.patch.dict(os.environ, {"PYTHON_DOTENV_DISABLED": "true"}):
            warnings.simplefilter("ignore")
            return importlib.import_module("alpaca_eval.metrics.glm_winrate")
    except ImportError as error:
        raise UserError(f"{INSTALL} ({error})") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """scikit-learn's settings are put back afterwards, and its deprecations are not the user's concern."""
    from sklearn import config_context

    with warnings.catch_warnings(), config_context():
        warnings.simplefilter("ignore")
        yield
