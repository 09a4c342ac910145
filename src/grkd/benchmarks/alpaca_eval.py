"""AlpacaEval 2: a judge prefers the model's or the baseline's output; win rate and length-controlled win rate.

Source: Dubois et al., "Length-Controlled AlpacaEval", arXiv 2404.04475.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from grkd.answers.question import Question
from grkd.benchmarks._benchmark import Benchmark, Column, FromFile, Measure
from grkd.benchmarks._data_files import ComparedQuestion, found_file, spread, text_of
from grkd.benchmarks._results import asked, cost_of_answers, win_rate_result
from grkd.errors import UserError
from grkd.files import parse_json, write_json
from grkd.metrics.registry import Metric

if TYPE_CHECKING:
    from grkd.benchmarks._session import Session
    from grkd.benchmarks._settings import Settings

ANSWER_TOKENS = 2048
_WHERE = "get alpaca_eval/ (reference_outputs_gpt4_1106_preview.json) from github.com/tatsu-lab/alpaca_eval, results/"


def check(settings: "Settings") -> None:
    """Raises UserError for instructions that are missing or malformed."""
    _questions(settings)


def run(session: "Session") -> dict[str, Any]:
    """Win rate and length-controlled win rate; annotations.json is what alpaca-eval itself writes and reads."""
    from grkd.benchmarks import _alpaca_eval_score as scoring

    items = _questions(session.settings)
    answers = session.answers(
        [Question(id=item.id, turns=(item.question,)) for item in items],
        task="alpaca_eval",
        max_new_tokens=ANSWER_TOKENS,
    )
    longest = session.settings.judge.judge_tokens or scoring.JUDGE_TOKENS
    requests = [
        scoring.judge_request(
            item.question,
            item.baseline,
            answers[item.id][0].text,
            id=f"alpaca_eval/{item.id}",
            max_tokens=min(scoring.JUDGE_TOKENS, longest),
        )
        for item in items
    ]
    outcome = session.judgements(requests, task="alpaca_eval")
    annotations: list[dict[str, Any]] = [
        {
            "index": int(item.id),
            "instruction": item.question,
            "dataset": item.row.get("dataset"),
            "output_1": item.baseline,
            "generator_1": scoring.BASELINE,
            "output_2": answers[item.id][0].text,
            "generator_2": session.generator,
            "annotator": session.judge.model,
            "preference": scoring.parse(outcome.judgements[f"alpaca_eval/{item.id}"], instruction=item.question),
        }
        for item in items
        if f"alpaca_eval/{item.id}" in outcome.judgements
    ]
    write_json(session.folder / "alpaca_eval" / "annotations.json", annotations)
    found = scoring.score(annotations, difficulty=session.settings.folder) if annotations else {}
    win_percent = {
        str(row["index"]): None if row["preference"] is None else scoring.preference_to_share(row["preference"])
        for row in annotations
    }
    return win_rate_result(found) | {
        "items": [
            {"id": item.id, "asked": asked(item.question, item.baseline), "win_percent": win_percent[item.id]}
            for item in items
            if item.id in win_percent
        ],
        "weighted_by_logprobs": sum(judged.logprobs is not None for judged in outcome.judgements.values()),
        **cost_of_answers(answers),
        **session.judged(requests, outcome, benchmark_judge=scoring.BENCHMARK_JUDGE, prompt=scoring.judge_prompt()),
    }


def score_file(path: Path, data: Path | None) -> dict[str, Any]:
    """Win rates of an annotation file, as alpaca-eval writes it."""
    from grkd.benchmarks import _alpaca_eval_score as scoring
    from grkd.benchmarks._alpaca_eval_length import table_in

    tables = map(table_in, path.resolve().parents[:3])  # without --data, beside the annotations
    difficulty = data or next((table for table in tables if table is not None), None)
    return scoring.score(scoring.read_annotations(path), difficulty=difficulty)


def _questions(settings: "Settings") -> list[ComparedQuestion]:
    """The instructions with the reference's outputs, --limit of them spread evenly over the file."""
    path = found_file(settings.folder / "alpaca_eval" / "reference_outputs_gpt4_1106_preview.json", _WHERE)
    try:
        rows = parse_json(text_of(path, "JSON"))
        items = [
            ComparedQuestion(id=str(number), question=row["instruction"], baseline=row["output"], row=row)
            for number, row in enumerate(rows)
        ]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a list of instruction, output and generator; {_WHERE}") from None
    return spread(items, settings.limit)


BENCHMARK = Benchmark(
    name="alpaca_eval",
    title="AlpacaEval 2",
    order=1,
    judged=True,
    data_hint="alpaca_eval/ (reference_outputs_gpt4_1106_preview.json, df_gamed.csv)",
    check=check,
    run=run,
    measures=(
        Measure(
            metric=Metric(name="win_rate", label="win rate", unit="%", direction=1, decimals=2, low=0.0, high=100.0),
            key="win_percent",
        ),
    ),
    columns=(
        Column(
            name="alpaca_eval_lc_percent",
            heading="LC",
            unit="%",
            metrics=("length_controlled_win_rate",),
            always=True,
        ),
        Column(name="alpaca_eval_wr_percent", heading="WR", unit="%", metrics=("win_rate",), always=True),
    ),
    from_file=FromFile(flag="--from-annotations", help="score a file of AlpacaEval annotations", score=score_file),
    note="The length-controlled win rate is a fit over all instructions and is not compared item by item.",
)
