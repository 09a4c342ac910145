"""AlpacaEval 2 and Arena-Hard: the model's answers against a fixed opponent's, and figures of finished files."""

import json
import os
from pathlib import Path
from typing import Any

from grkd.answers.local import Question, Text
from grkd.benchmarks._arena_hard_judge import Protocol, read_protocol
from grkd.evaluation._comparison_files import ARENA_BASELINE, Comparison, alpaca_items, arena_items
from grkd.evaluation.options import Options
from grkd.evaluation.session import Session, asked, cost_of_answers
from grkd.files import write_json, write_text

ALPACA_ANSWER_TOKENS, ARENA_ANSWER_TOKENS = 2048, 4096


def alpaca_eval(session: Session) -> dict[str, Any]:
    """Win rate and length-controlled win rate; annotations.json is what alpaca-eval itself writes and reads."""
    from grkd.benchmarks import alpaca_eval as benchmark

    options = session.options
    items = alpaca_items(session.data, options.limit)
    answers = _answers(session, items, task="alpaca_eval", tokens=ALPACA_ANSWER_TOKENS)
    requests = [
        benchmark.judge_request(
            item.question,
            item.baseline,
            answers[item.id][0].text,
            id=f"alpaca_eval/{item.id}",
            max_tokens=min(benchmark.JUDGE_TOKENS, options.judge_tokens or benchmark.JUDGE_TOKENS),
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
            "generator_1": benchmark.BASELINE,
            "output_2": answers[item.id][0].text,
            "generator_2": session.generator,
            "annotator": session.judge.model,
            "preference": benchmark.parse(outcome.judgements[f"alpaca_eval/{item.id}"], instruction=item.question),
        }
        for item in items
        if f"alpaca_eval/{item.id}" in outcome.judgements
    ]
    write_json(session.folder / "alpaca_eval" / "annotations.json", annotations)
    found = benchmark.score(annotations, difficulty=session.data) if annotations else {}
    win_percent = {
        str(row["index"]): None if row["preference"] is None else benchmark.preference_to_share(row["preference"])
        for row in annotations
    }
    return _result(found) | {
        "items": [
            {"id": item.id, "asked": asked(item.question, item.baseline), "win_percent": win_percent[item.id]}
            for item in items
            if item.id in win_percent
        ],
        "weighted_by_logprobs": sum(judged.logprobs is not None for judged in outcome.judgements.values()),
        **cost_of_answers(answers),
        **session.judged(requests, outcome, benchmark_judge=benchmark.BENCHMARK_JUDGE, prompt=benchmark.judge_prompt()),
    }


def arena_hard(session: Session) -> dict[str, Any]:
    """Weighted win rate and Bradley-Terry score of both orders; battles.jsonl is one game a line."""
    from grkd.benchmarks import arena_hard as benchmark

    options = session.options
    items = arena_items(session.data, options.limit)
    answers = _answers(session, items, task="arena_hard", tokens=ARENA_ANSWER_TOKENS)
    protocol = arena_protocol(options)
    requests = {
        (item.id, game): benchmark.judge_request(
            protocol,
            item.question,
            item.baseline,
            answers[item.id][0].text,
            game=game,
            id=f"arena_hard/{item.id}/game{game}",
            max_tokens=min(protocol.max_tokens, options.judge_tokens or protocol.max_tokens),
        )
        for item in items
        for game in (1, 2)
    }
    outcome = session.judgements(list(requests.values()), task="arena_hard")
    battles, swayed = [], 0
    for item in items:
        said = [outcome.judgements.get(requests[item.id, game].id) for game in (1, 2)]
        texts = [judgement.text for judgement in said if judgement is not None]
        if len(texts) == 2:  # a question counts once both orders are judged
            verdicts = [benchmark.parse(text, protocol=protocol) for text in texts]
            games = benchmark.battles_of(item.id, session.generator, verdicts, baseline=ARENA_BASELINE)
            swayed += {"model_a", "model_b"} <= {battle["winner"] for battle in games}
            battles += games
    lines = "".join(json.dumps(battle, ensure_ascii=False) + "\n" for battle in battles)
    write_text(session.folder / "arena_hard" / "battles.jsonl", lines)
    found = _result(benchmark.score(battles, seed=options.seed or 42) if battles else {})
    judged = session.judged(
        list(requests.values()),
        outcome,
        benchmark_judge=protocol.judge_model,
        prompt=[protocol.system_prompt, protocol.prompt_template],
    )
    if protocol.own_prompt is not None:
        judged["comparable"] = False
        judged["note"] = "; ".join(filter(None, [judged["note"], protocol.own_prompt]))
    compared = {item.id: asked(item.question, item.baseline) for item in items}
    fought = benchmark.question_items(battles, baseline=ARENA_BASELINE) if battles else []
    return found | {
        "items": [{**item, "asked": compared[item["id"]]} for item in fought],
        "winner_turns_with_order": swayed,
        **cost_of_answers(answers),
        **judged,
    }


def arena_protocol(options: Options) -> Protocol:
    """How the judge is asked. Raises UserError where its configuration or prompt is missing or unfit."""
    assert options.data is not None
    return read_protocol(options.data, prompt=options.judge_prompt)


def from_annotations(path: Path, options: Options) -> dict[str, Any]:
    """Figures of an annotation file, as alpaca-eval writes it."""
    from grkd.benchmarks import alpaca_eval as benchmark

    annotations = benchmark.read_annotations(path)
    return {"task": "alpaca_eval", **benchmark.score(annotations, difficulty=_difficulty(path, options))}


def from_battles(path: Path) -> dict[str, Any]:
    """Figures of a file of Arena-Hard battles."""
    from grkd.benchmarks import arena_hard as benchmark

    return {"task": "arena_hard", **benchmark.score(benchmark.read_battles(path))}


def _difficulty(path: Path, options: Options) -> Path | None:
    """Where the table for length control may be: --data, beside the file, or the folder in GRKD_DATA."""
    if options.data is not None:
        return options.data
    places = [*path.resolve().parents[:3]]
    if os.environ.get("GRKD_DATA"):
        places.append(Path(os.environ["GRKD_DATA"]) / "llm")
    for place in places:
        for folder in (place, place / "alpaca_eval"):
            if any((folder / name).is_file() for name in ("df_gamed.csv", "df_gamed_reconstructed.csv")):
                return folder
    return None


def _answers(session: Session, items: list[Comparison], *, task: str, tokens: int) -> dict[str, list[Text]]:
    questions = [Question(id=item.id, turns=(item.question,)) for item in items]
    return session.answers(questions, task=task, max_new_tokens=tokens)


def _result(found: dict[str, Any]) -> dict[str, Any]:
    """Figures as metrics; counts and remarks stay beside them."""
    figures = ("win_rate", "length_controlled_win_rate", "score", "discrete_win_rate")
    bounded = "score" if "score" in found else "win_rate"
    metrics = {
        name: {
            "value": found[name],
            "low": found.get("low") if name == bounded else None,
            "high": found.get("high") if name == bounded else None,
        }
        for name in figures
        if name in found
    }
    rest = {name: value for name, value in found.items() if name not in (*figures, "low", "high")}
    return {"metrics": metrics, **rest}
