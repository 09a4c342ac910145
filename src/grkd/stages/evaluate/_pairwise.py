"""AlpacaEval 2 and Arena-Hard: the model's answers against a fixed opponent's, and figures of finished files."""

import json
import os
from pathlib import Path
from typing import Any

from grkd.evaluation.answers import Question, Text
from grkd.files import write_json, write_text
from grkd.stages.evaluate._benchmarks import ARENA_BASELINE, Comparison, alpaca_items, arena_items
from grkd.stages.evaluate._options import Options
from grkd.stages.evaluate._session import Session, cost_of_answers

_OWN_PROMPT = "the judge's configuration has no system_prompt, so grkd's own wording was used"
ALPACA_ANSWER_TOKENS, ARENA_ANSWER_TOKENS = 2048, 4096


def alpaca_eval(session: Session) -> dict[str, Any]:
    """Win rate and length-controlled win rate; annotations.json is what alpaca-eval itself writes and reads."""
    from grkd.evaluation import alpaca_eval as benchmark

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
    annotations = [
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
    return _result(found) | {
        "weighted_by_logprobs": sum(judged.logprobs is not None for judged in outcome.judgements.values()),
        **cost_of_answers(answers),
        **session.judged(requests, outcome, benchmark_judge=benchmark.BENCHMARK_JUDGE),
    }


def arena_hard(session: Session) -> dict[str, Any]:
    """Weighted win rate and Bradley-Terry score of both orders; battles.jsonl is one game a line."""
    from grkd.evaluation import arena_hard as benchmark

    options = session.options
    items = arena_items(session.data, options.limit)
    answers = _answers(session, items, task="arena_hard", tokens=ARENA_ANSWER_TOKENS)
    protocol = benchmark.read_protocol(session.data)
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
            fought = benchmark.battles_of(item.id, session.generator, verdicts, baseline=ARENA_BASELINE)
            swayed += {"model_a", "model_b"} <= {battle["winner"] for battle in fought}
            battles += fought
    lines = "".join(json.dumps(battle, ensure_ascii=False) + "\n" for battle in battles)
    write_text(session.folder / "arena_hard" / "battles.jsonl", lines)
    found = _result(benchmark.score(battles, seed=options.seed or 42) if battles else {})
    judged = session.judged(list(requests.values()), outcome, benchmark_judge=protocol.judge_model)
    if not protocol.published:
        judged["comparable"] = False
        judged["note"] = "; ".join(filter(None, [judged["note"], _OWN_PROMPT]))
    return found | {"winner_turns_with_order": swayed, **cost_of_answers(answers), **judged}


def arena_protocol(data: Path) -> None:
    """Raises UserError where the judge's configuration is missing or unfit."""
    from grkd.evaluation.arena_hard import read_protocol

    read_protocol(data)


def from_annotations(path: Path, options: Options) -> dict[str, Any]:
    """Figures of an annotation file, as alpaca-eval writes it."""
    from grkd.evaluation import alpaca_eval as benchmark

    annotations = benchmark.read_annotations(path)
    return {"task": "alpaca_eval", **benchmark.score(annotations, difficulty=_difficulty(path, options))}


def from_battles(path: Path) -> dict[str, Any]:
    """Figures of a file of Arena-Hard battles."""
    from grkd.evaluation import arena_hard as benchmark

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
