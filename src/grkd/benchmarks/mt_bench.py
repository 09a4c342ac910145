"""MT-Bench: 80 two-turn questions, each answer graded from 1 to 10 by a judge that sees it alone.

Source: Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv 2306.05685.
"""

from typing import TYPE_CHECKING, Any

from grkd.benchmarks._benchmark import Benchmark, Column, Measure
from grkd.benchmarks._results import asked, cost_of_answers, without_interval
from grkd.metrics.registry import Metric

if TYPE_CHECKING:
    from grkd.benchmarks._session import Session
    from grkd.benchmarks._settings import Settings


def check(settings: "Settings") -> None:
    """Raises UserError for questions, reference answers or judge prompts that are missing or malformed."""
    from grkd.benchmarks import _mt_bench_judge as grading

    grading.read(settings.folder, limit=settings.limit)


def run(session: "Session") -> dict[str, Any]:
    """MT-Bench by single-answer grading."""
    from grkd.benchmarks import _mt_bench_judge as grading

    settings = session.settings
    benchmark = grading.read(settings.folder, limit=settings.limit)
    answers = session.answers(
        [item.question for item in benchmark.items], task="mt_bench", max_new_tokens=grading.ANSWER_TOKENS
    )
    requests = [
        grading.judge_request(
            benchmark,
            item,
            [text.text for text in answers[item.question.id]],
            turn,
            max_tokens=min(grading.JUDGE_TOKENS, settings.judge.judge_tokens or grading.JUDGE_TOKENS),
        )
        for item in benchmark.items
        for turn in range(1, len(item.question.turns) + 1)
    ]
    compared = {item.question.id: asked(*item.question.turns, *(item.references or ())) for item in benchmark.items}
    outcome = session.judgements(requests, task="mt_bench")
    texts = {name: judged.text for name, judged in outcome.judgements.items()}
    found = grading.score(benchmark, texts, seed=settings.seed)
    return {
        "metrics": {
            "score": {"value": found["score"], "low": found["low"], "high": found["high"]},
            **{name: without_interval(found[name]) for name in ("turn_1", "turn_2")},
            **{f"category_{name}": without_interval(mean) for name, mean in found["categories"].items()},
        },
        **{name: found[name] for name in ("questions", "n", "unparsable", "missing")},
        "items": [{**item, "asked": compared[item["id"]]} for item in found["items"]],
        **cost_of_answers(answers),
        **session.judged(
            requests,
            outcome,
            benchmark_judge=grading.BENCHMARK_JUDGE,
            prompt=[benchmark.prompts[name] for name in grading.PROMPTS],
        ),
    }


BENCHMARK = Benchmark(
    name="mt_bench",
    title="MT-Bench",
    order=3,
    judged=True,
    data_hint="mt_bench/ (question.jsonl, reference_answer/gpt-4.jsonl, judge_prompts.jsonl)",
    check=check,
    run=run,
    measures=(
        Measure(
            metric=Metric(name="score", label="score", direction=1, decimals=2, low=1.0, high=10.0),
            key="rating",
            weight="ratings",
        ),
    ),
    columns=(Column(name="mt_bench", unit="1-10", metrics=("score",), always=True),),
)
