"""Arena-Hard v0.1: a judge compares the model's answer with a baseline's, in both orders.

Source: Li et al., "From Crowdsourced Data to High-Quality Benchmarks", arXiv 2406.11939.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grkd.answers.question import Question
from grkd.benchmarks._benchmark import Benchmark, Column, FromFile, Measure, Option
from grkd.benchmarks._results import asked, cost_of_answers, win_rate_result
from grkd.files import write_text
from grkd.metrics.registry import Metric

if TYPE_CHECKING:
    from grkd.benchmarks._arena_hard_judge import JudgeProtocol
    from grkd.benchmarks._data_files import ComparedQuestion
    from grkd.benchmarks._session import Session
    from grkd.benchmarks._settings import Settings
    from grkd.endpoint.judge import Judgements, Request

ANSWER_TOKENS = 4096


def check(settings: "Settings") -> None:
    """Raises UserError for questions, baseline answers or a judge's configuration that are missing or malformed."""
    from grkd.benchmarks._arena_hard_judge import read_questions

    read_questions(settings.folder, settings.limit)
    _protocol(settings)


def run(session: "Session") -> dict[str, Any]:
    """Weighted win rate and Bradley-Terry score over both orders; battles.jsonl is one battle per line."""
    from grkd.benchmarks import _arena_hard_judge as judging
    from grkd.benchmarks import _arena_hard_score as scoring

    settings = session.settings
    items, protocol = judging.read_questions(settings.folder, settings.limit), _protocol(settings)
    answers = session.answers(
        [Question(id=item.id, turns=(item.question,)) for item in items],
        task="arena_hard",
        max_new_tokens=ANSWER_TOKENS,
    )
    requests = {
        (item.id, game): judging.judge_request(
            protocol,
            item.question,
            item.baseline,
            answers[item.id][0].text,
            game=game,
            id=f"arena_hard/{item.id}/game{game}",
            max_tokens=min(protocol.max_tokens, settings.judge.judge_tokens or protocol.max_tokens),
        )
        for item in items
        for game in (1, 2)
    }
    outcome = session.judgements(list(requests.values()), task="arena_hard")
    battles, swayed = _battles(items, requests, outcome, protocol, session.generator)
    lines = "".join(json.dumps(battle, ensure_ascii=False) + "\n" for battle in battles)
    write_text(session.folder / "arena_hard" / "battles.jsonl", lines)
    compared = {item.id: asked(item.question, item.baseline) for item in items}
    fought = scoring.question_items(battles) if battles else []
    return win_rate_result(scoring.score(battles, seed=settings.seed or 42) if battles else {}) | {
        "items": [{**item, "asked": compared[item["id"]]} for item in fought],
        "winner_turns_with_order": swayed,
        **cost_of_answers(answers),
        **_judged(session, list(requests.values()), outcome, protocol),
    }


def score_file(path: Path, _: Path | None) -> dict[str, Any]:
    """Win rate and score of a file of battles."""
    from grkd.benchmarks import _arena_hard_score as scoring

    return scoring.score(scoring.read_battles(path))


def _protocol(settings: "Settings") -> "JudgeProtocol":
    from grkd.benchmarks._arena_hard_judge import read_protocol

    return read_protocol(settings.folder, prompt=settings.option("judge_prompt"))


def _battles(
    items: "list[ComparedQuestion]",
    requests: "dict[tuple[str, int], Request]",
    outcome: "Judgements",
    protocol: "JudgeProtocol",
    model: str,
) -> tuple[list[dict[str, Any]], int]:
    """The battles of all questions, and for how many of these the winner turns with the order of the answers."""
    from grkd.benchmarks import _arena_hard_judge as judging
    from grkd.benchmarks import _arena_hard_score as scoring

    battles, swayed = [], 0
    for item in items:
        found = [outcome.judgements.get(requests[item.id, game].id) for game in (1, 2)]
        texts = [judgement.text for judgement in found if judgement is not None]
        if len(texts) == 2:  # a question counts once both orders are judged
            verdicts = [judging.parse(text, protocol=protocol) for text in texts]
            games = scoring.battles_of(item.id, model, verdicts)
            swayed += {"model_a", "model_b"} <= {battle["winner"] for battle in games}
            battles += games
    return battles, swayed


def _judged(
    session: "Session", requests: "list[Request]", outcome: "Judgements", protocol: "JudgeProtocol"
) -> dict[str, Any]:
    judged = session.judged(
        requests,
        outcome,
        benchmark_judge=protocol.judge_model,
        prompt=[protocol.system_prompt, protocol.prompt_template],
    )
    if protocol.own_prompt is not None:
        judged["comparable"] = False
        judged["note"] = "; ".join(filter(None, [judged["note"], protocol.own_prompt]))
    return judged


BENCHMARK = Benchmark(
    name="arena_hard",
    title="Arena-Hard",
    order=2,
    judged=True,
    data_hint="arena_hard/ (question.jsonl, model_answer/gpt-4-0314.jsonl, judge_config.yaml)",
    check=check,
    run=run,
    measures=(
        Measure(
            metric=Metric(name="win_rate", label="win rate", unit="%", direction=1, decimals=2, low=0.0, high=100.0),
            key="win_percent",
            weight="battles",
        ),
    ),
    columns=(Column(name="arena_hard_wr_percent", heading="WR", unit="%", metrics=("win_rate", "score"), always=True),),
    options=(
        Option(
            name="judge_prompt",
            kind=Path,
            metavar="FILE",
            help="text file with the judge's system prompt (default: that of the data)",
        ),
    ),
    from_file=FromFile(flag="--from-battles", help="score a file of Arena-Hard battles", score=score_file),
)
