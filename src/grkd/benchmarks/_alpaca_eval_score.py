"""AlpacaEval 2: a judge's preferences to win rate and length-controlled win rate, by alpaca-eval's own code.

Source: Dubois et al., "Length-Controlled AlpacaEval", arXiv 2404.04475; alpaca-eval 0.6.6, whose package also holds
the judge's prompt. An annotation is a dictionary as alpaca-eval writes it: instruction, output_1 and generator_1 (the
baseline's), output_2 and generator_2 (the model's), preference from 1 (baseline) to 2 (model), None if unparsable.
"""

import importlib.util
import math
import random
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from grkd.benchmarks import _alpaca_eval_length as length_control
from grkd.benchmarks._data_files import is_number, read_rows, without_nan
from grkd.endpoint.judge import Judgement, Request
from grkd.errors import UserError
from grkd.statistics import bootstrap_interval

BASELINE = "gpt4_1106_preview"
BENCHMARK_JUDGE = "gpt-4-1106-preview"
JUDGE_TOKENS = 1
JUDGE_LOGPROBS = 5
ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"

_SAME_BASELINE = {BASELINE, "gpt4_turbo"}  # older annotation files call the model by its first name
_TEXTS = ("instruction", "output_1", "output_2", "generator_1", "generator_2")
_MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)
_CHOICE = re.compile(r"""\s*["'`]?([mM])["'`]?[.\s]*""")


def read_annotations(path: Path) -> list[dict[str, Any]]:
    """The annotations of a JSON or JSONL file, gzipped or not. Raises UserError that names the row."""
    return read_rows(path, _mistake, kind="annotations")


def score(
    annotations: Sequence[Mapping[str, Any]], *, baseline: str = BASELINE, difficulty: Path | None = None
) -> dict[str, Any]:
    """Win rate and length-controlled win rate of the one model in `annotations`, in percent.

    win_rate = mean(preference - 1); low, high its 95 % bootstrap interval, standard_error as alpaca-eval gives it.
    length_controlled_win_rate: mean prediction at equal lengths of the GLM
    logit p = w_1 tanh(length difference / its deviation) + w_2 difficulty + w_3, refitted to these annotations
    together with the gamed baselines. `difficulty`: their table, df_gamed.csv of the dataset tatsu-lab/alpaca_eval, or
    a folder with it (or with alpaca_eval/); None: the one in the Hugging Face cache. Nothing is downloaded: where
    there is none, the length-controlled metrics are None and length_controlled_note says what to do.
    A row's "index" (0 to 804) says which instruction it is; else instructions_805.jsonl beside the table does, by
    text; else the order of rows, as alpaca-eval has it.
    n counts parsed preferences, unparsable the others. Undefined metrics are None.
    Raises UserError for annotations of several models, another baseline, or a table that is none.
    """
    model = _one_name(annotations, "generator_2", "score one model at a time")
    found = _one_name(annotations, "generator_1", "there is one baseline")
    if found != baseline and not {found, baseline} <= _SAME_BASELINE:
        raise UserError(f"annotations: the baseline (generator_1) is {found!r}, expected {baseline!r}")
    table = length_control.find_table(difficulty)
    rows = [dict(row) for row in annotations]
    preferences = [float(row["preference"]) for row in rows if row["preference"] is not None]
    whole = bootstrap_interval([preference_to_share(value) for value in preferences])
    metrics = length_control.plain(preferences)
    controlled, error, note = length_control.controlled(rows, table)
    return without_nan(
        {
            "model": model,
            "baseline": found,
            "win_rate": metrics["win_rate"],
            "low": whole.low,
            "high": whole.high,
            "length_controlled_win_rate": controlled,
            "standard_error": metrics["standard_error"],
            "length_controlled_standard_error": error,
            "discrete_win_rate": metrics["discrete_win_rate"],
            "n": len(preferences),
            "unparsable": len(rows) - len(preferences),
            "length_controlled_note": note,
        }
    )


def judge_request(
    instruction: str, baseline_output: str, output: str, *, id: str, max_tokens: int = JUDGE_TOKENS
) -> Request:
    """What the judge is asked about one instruction: both outputs, in the order that is_switched says.

    Raises UserError if the alpaca-eval package, which holds the prompt, is missing.
    """
    first, second = (output, baseline_output) if is_switched(instruction) else (baseline_output, output)
    values = {"instruction": instruction, "output_1": first, "output_2": second}
    # One pass, so that braces inside an output stay what they are.
    messages = [
        {"role": role, "content": re.sub(r"\{(\w+)\}", lambda field: values.get(field[1], field[0]), content)}
        for role, content in judge_prompt()
    ]
    return Request(id=id, messages=messages, max_tokens=max_tokens, logprobs=JUDGE_LOGPROBS)


def is_switched(instruction: str) -> bool:
    """Whether the judge sees the model's output first: alpaca-eval's own draw, seeded by the instruction."""
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]


def parse(judgement: Judgement, *, instruction: str) -> float | None:
    """Preference from 1 (baseline) to 2 (model) out of a judgement; None if it is neither m nor M, or one of their
    log-probabilities is not a number.

    With log-probabilities: 2 - p(m) / (p(m) + p(M)) of the first token, m being the output seen first; a choice that
    is not among the alternatives has probability 0. Without, or with neither among them: 1 or 2, as the text says.
    """
    first = (judgement.logprobs[0].get("top_logprobs") or []) if judgement.logprobs else []
    found = {each["token"]: each["logprob"] for each in first if each["token"] in ("m", "M")}
    if None in found.values():  # what should be a number is missing
        return None
    gap = found.get("m", -math.inf) - found.get("M", -math.inf) if found else math.nan
    preference = 2 - math.exp(min(gap, 0)) / (1 + math.exp(-abs(gap)))
    if math.isnan(preference):
        choice = _CHOICE.fullmatch(judgement.text)
        if choice is None:
            return None
        preference = 1.0 if choice[1] == "m" else 2.0
    return 3 - preference if is_switched(instruction) else preference


def preference_to_share(preference: float) -> float:
    """A preference as the model's share of the win, in percent; 0 is a draw, as in alpaca-eval."""
    return 100 * ((preference or 1.5) - 1)


@cache
def judge_prompt() -> list[tuple[str, str]]:
    """Role and text of each message, from the installed package."""
    spec = importlib.util.find_spec("alpaca_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(length_control.INSTALL)
    folder = Path(spec.submodule_search_locations[0]) / "evaluators_configs"
    config = yaml.safe_load((folder / ANNOTATOR / "configs.yaml").read_text(encoding="utf-8"))[ANNOTATOR]
    text = (folder / config["prompt_template"]).read_text(encoding="utf-8")
    return [(role, content.strip()) for role, content in _MESSAGE.findall(text)]


def _one_name(rows: Sequence[Mapping[str, Any]], key: str, why: str) -> str:
    names = sorted({row[key] for row in rows})
    if len(names) != 1:
        raise UserError(f"annotations: {key} must be one name, found {', '.join(map(repr, names)) or 'no row'}; {why}")
    return str(names[0])


def _mistake(row: dict[str, Any]) -> str | None:
    """What is wrong with an annotation; a preference that is NaN becomes None."""
    for key in _TEXTS:
        if not isinstance(row.get(key), str):
            return f"{key!r} must be a text, got {row.get(key)!r}"
    if "preference" not in row:
        return "no 'preference' in it"
    value = row["preference"]
    if isinstance(value, float) and math.isnan(value):
        row["preference"] = value = None
    if value is None or (is_number(value) and (value == 0 or 1 <= value <= 2)):
        return None
    return f"'preference' must be from 1 (baseline) to 2 (model), 0 for a draw or null, got {value!r}"
