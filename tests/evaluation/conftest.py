"""A judge on loopback, and small benchmarks of our own in the layout of the real ones."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests._endpoint_server import EndpointServer
from tests.evaluation._command import QUESTIONS


def judged(body: dict[str, Any]) -> str:
    """A judge that rates 7 in the first turn and 5 in the second, and always prefers the answer shown first."""
    text = body["messages"][-1]["content"]
    if "<Rate>" in text:
        return "Rating: [[5]]" if "<Second>" in text else "Rating: [[7]]"
    return "[[A>B]]" if "<Compare>" in text else "m"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A local endpoint, as the judge named "weak"."""
    pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = EndpointServer(judged, models=["weak"])
    yield made
    made.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Small benchmarks of our own, in the layout of the real ones."""
    folder = tmp_path / "data"
    numbers = range(QUESTIONS)
    categories = ["writing", "math", "coding", "stem"]
    bench = [{"question_id": n, "category": categories[n], "turns": [f"w{n} w1", f"w{n} w2"]} for n in numbers]
    rate = "<Rate> {question} {answer}"
    second = "<Rate> <Second> {question_1} {answer_1} {question_2} {answer_2}"
    prompts = [
        {"name": f"single-{kind}v1{turn}", "system_prompt": "Judge.", "prompt_template": text}
        for kind in ("", "math-")
        for turn, text in (("", rate), ("-multi-turn", second))
    ]
    arena = [{"uid": f"u{n}", "prompt": f"w{n} w3"} for n in numbers]
    answers = [
        {"uid": f"u{n}", "messages": [{"role": "assistant", "content": {"answer": f"baseline {n}"}}]} for n in numbers
    ]
    lines = {
        "mt_bench/question.jsonl": bench,
        "mt_bench/reference_answer/gpt-4.jsonl": [
            {"question_id": n, "choices": [{"turns": ["r", "s"]}]} for n in numbers
        ],
        "mt_bench/judge_prompts.jsonl": prompts,
        "arena_hard/question.jsonl": arena,
        "arena_hard/model_answer/gpt-4-0314.jsonl": answers,
        "questions.jsonl": [{"question": f"w{n}", "answer": n} for n in numbers],
    }
    for name, rows in lines.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = "judge_model: strong\nmax_tokens: 64\ntemperature: 0.0\nregex_patterns: ['\\[\\[([AB<>=]+)\\]\\]']\n"
    config += 'prompt_template: "<Compare> {QUESTION} {ANSWER_A} {ANSWER_B}"\n'
    (folder / "arena_hard" / "judge_config.yaml").write_text(config)
    alpaca = [
        {"dataset": "d", "instruction": f"w{n} w4", "output": f"reference {n}", "generator": "gpt4_1106_preview"}
        for n in numbers
    ]
    (folder / "alpaca_eval").mkdir()
    packed = folder / "alpaca_eval" / "reference_outputs_gpt4_1106_preview.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(alpaca).encode()))
    return folder
