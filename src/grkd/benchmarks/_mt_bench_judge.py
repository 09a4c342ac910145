"""MT-Bench: 80 two-turn questions, each answer graded from 1 to 10 by a judge that sees it alone.

Source: Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv 2306.05685, sec. 3 and app. A.
Questions, reference answers and judge prompts are the benchmark's files, read from the user's folder.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.answers.question import Question
from grkd.benchmarks._data_files import filled, json_lines, spread
from grkd.endpoint.judge import Request
from grkd.errors import UserError
from grkd.statistics import bootstrap_interval

BENCHMARK_JUDGE = "gpt-4"
JUDGE_TOKENS = 2048
ANSWER_TOKENS = 1024
PROMPTS = ("single-v1", "single-v1-multi-turn", "single-math-v1", "single-math-v1-multi-turn")
WITH_REFERENCE = ("math", "reasoning", "coding")
# The benchmark samples where there is no one right answer (FastChat's settings).
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1}

WHERE = "get mt_bench/ (question.jsonl, reference_answer/gpt-4.jsonl, judge_prompts.jsonl) from FastChat's llm_judge"
_RATING = re.compile(r"\[\[(\d+(?:\.\d+)?)\]\]")


@dataclass(frozen=True, kw_only=True)
class MTBenchQuestion:
    """A question, its category, and the reference answers (one per turn) where its category is judged with them."""

    question: Question
    category: str
    references: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class MTBench:
    """The questions and the judge's prompts by name: (system, template)."""

    items: tuple[MTBenchQuestion, ...]
    prompts: dict[str, tuple[str, str]]


def read(data: Path, *, limit: int | None = None) -> MTBench:
    """The benchmark from `data`/mt_bench; `limit` questions spread evenly, so that every category has its share.

    Raises UserError if a file is missing (it says where to get it) or not as it should be.
    """
    folder = data / "mt_bench"
    inner = folder / "mt_bench" if (folder / "mt_bench").is_dir() else folder
    references = {
        row["question_id"]: tuple(row["choices"][0]["turns"])
        for row in json_lines(inner / "reference_answer" / "gpt-4.jsonl", WHERE, ("question_id", "choices"))
    }
    items = []
    for row in json_lines(inner / "question.jsonl", WHERE, ("question_id", "category", "turns")):
        category, name = str(row["category"]), row["question_id"]
        if category in WITH_REFERENCE and name not in references:
            raise UserError(f"{inner / 'reference_answer' / 'gpt-4.jsonl'}: no answer to question {name}; {WHERE}")
        question = Question(id=str(name), turns=tuple(row["turns"]), temperature=TEMPERATURES.get(category, 0.0))
        items.append(
            MTBenchQuestion(
                question=question,
                category=category,
                references=references[name] if category in WITH_REFERENCE else None,
            )
        )
    path = folder / "judge_prompts.jsonl"
    prompts = {
        str(row["name"]): (str(row["system_prompt"]), str(row["prompt_template"]))
        for row in json_lines(path, WHERE, ("name", "system_prompt", "prompt_template"))
    }
    for name in PROMPTS:
        if name not in prompts:
            raise UserError(f"{path}: no prompt named {name!r}; {WHERE}")
    return MTBench(items=tuple(spread(items, limit)), prompts=prompts)


def judge_request(
    benchmark: MTBench, item: MTBenchQuestion, answers: Sequence[str], turn: int, *, max_tokens: int = JUDGE_TOKENS
) -> Request:
    """What the judge is asked about the answer to turn 1 or 2, `answers` holding the model's answers so far."""
    name = "single-math-v1" if item.references else "single-v1"
    system, template = benchmark.prompts[name if turn == 1 else f"{name}-multi-turn"]
    turns = item.question.turns
    values = {"question": turns[0], "answer": answers[0]}
    for number, text in enumerate(turns[:turn], start=1):
        values |= {f"question_{number}": text, f"answer_{number}": answers[number - 1]}
    for number, text in enumerate(item.references or (), start=1):
        values[f"ref_answer_{number}"] = text
    asked = filled(template, values, source=f"judge_prompts.jsonl: {name!r}", where=WHERE)
    return Request(
        id=f"mt_bench/{item.question.id}/turn{turn}",
        messages=[{"role": "system", "content": system}, {"role": "user", "content": asked}],
        max_tokens=max_tokens,
    )


def rating(judgement: str) -> float | None:
    """The first [[n]] of a judgement, where n is from 1 to 10; None if there is none: nothing is guessed.

    FastChat also takes [n] and numbers out of range; here those count as unparsable.
    """
    found = _RATING.search(judgement)
    if found is None or not 1 <= float(found[1]) <= 10:
        return None
    return float(found[1])


def score(benchmark: MTBench, judgements: Mapping[str, str], *, seed: int = 0) -> dict[str, Any]:
    """Means of the ratings, 1 to 10, from the judge's texts by request id.

    score: mean over all parsed ratings, low and high its 95 % bootstrap interval over questions (both turns of one
    drawn together); turn_1, turn_2 and categories: means of their ratings; n ratings, unparsable and missing counts.
    items: id, category, rating (the mean of a question's ratings) and ratings (how many), for paired tests.
    A mean of nothing is None.
    """
    found: list[tuple[str, str, int, float | None]] = []
    missing = 0
    for item in benchmark.items:
        for turn in range(1, len(item.question.turns) + 1):
            text = judgements.get(f"mt_bench/{item.question.id}/turn{turn}")
            if text is None:
                missing += 1
            else:
                found.append((item.question.id, item.category, turn, rating(text)))
    rated = [(name, category, turn, value) for name, category, turn, value in found if value is not None]
    whole = bootstrap_interval([row[3] for row in rated], groups=[row[0] for row in rated], seed=seed)
    ratings = {item.question.id: [row[3] for row in rated if row[0] == item.question.id] for item in benchmark.items}
    categories = dict.fromkeys(item.category for item in benchmark.items)
    return {
        **{"score" if name == "value" else name: value for name, value in whole.as_json().items()},
        **{f"turn_{turn}": _mean([row[3] for row in rated if row[2] == turn]) for turn in (1, 2)},
        "categories": {name: _mean([row[3] for row in rated if row[1] == name]) for name in categories},
        "items": [
            {"id": name, "category": category, "rating": _mean(ratings[name]), "ratings": len(ratings[name])}
            for name, category in ((item.question.id, item.category) for item in benchmark.items)
        ],
        "questions": len(benchmark.items),
        "n": len(rated),
        "unparsable": len(found) - len(rated),
        "missing": missing,
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
