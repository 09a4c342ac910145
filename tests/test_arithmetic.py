"""The arithmetic comparison: right answers, parts that share no question, a page that says who is ahead."""

import json
import os
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from benchmarks import arithmetic, arithmetic_table
from grkd.files import write_json
from grkd.metrics.exact_match import grade

DATA = Path(os.environ.get("GRKD_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / "llm" / "math_small").is_dir(), reason="needs the data files (GRKD_DATA)")


@needs_data
def test_chains_end_in_the_answer_and_are_right() -> None:
    found = list(arithmetic.problems(DATA))
    assert {one["id"].split("/")[0] for one in found} == {"mawps", "asdiv", "gsm8k"}
    assert all(grade(one["answer"], one["completion"]) == (str(Fraction(one["answer"])), True) for one in found[:3000])
    checked = wrong = 0
    for one in found:
        if one["id"].startswith("mawps"):
            left, right = one["completion"].splitlines()[0].split(" = ")
            assert re.fullmatch(r"[\d.+\-*/() ]+", left)
            checked += 1
            wrong += abs(eval(left) - float(right)) > 0.02 * abs(float(right)) + 0.01  # digits and signs alone
    assert checked > 1500
    assert wrong <= 0.02 * checked  # the source itself has a few


@needs_data
def test_no_tested_question_is_trained_on(tmp_path: Path) -> None:
    arithmetic.write_data(DATA, tmp_path)

    def questions(name: str, key: str) -> set[str]:
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        return {re.sub("[^a-z0-9]", "", json.loads(line)[key].lower()) for line in lines}

    test = questions("test", "question")
    assert len(test) > 900
    for name, key in (("start", "prompt"), ("train", "prompt"), ("validation", "question")):
        assert not test & questions(name, key)
    # The teacher is fine-tuned on `start`: what a search validates on must be new to it, as to the students.
    for name in ("start", "train"):
        assert not questions("validation", "question") & questions(name, "prompt")


def test_infix() -> None:
    assert arithmetic._infix(["-", "number0", "number1"], ["8", "2"]) == "8 - 2"
    assert arithmetic._infix(["*", "+", "number0", "2.0", "number1"], ["8", "3.5"]) == "( 8 + 2 ) * 3.5"


def test_page(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    questions = [f"{part}/{number}" for part in arithmetic_table.PARTS for number in range(60)]

    def answers(share: float) -> str:
        return "".join(str(int(draw < share)) for draw in generator.random(len(questions)))

    packed = {"before": answers(0.2), "teacher": answers(0.9)}
    packed |= {f"kd-seed{seed}": answers(0.5) for seed in range(2)} | {
        f"ce-seed{seed}": answers(0.1) for seed in range(2)
    }
    packed |= {f"grkd-seed{seed}": answers(0.8) for seed in range(2)}
    rows = [
        {"method": name.split("-")[0], "seed": int(name[-1]) if "-" in name else None, "metric": "exact_match"}
        | {"value": digits.count("1") / len(digits), "low": None, "high": None, "steps": 1, "seconds": 1.0}
        for name, digits in packed.items()
    ]
    status = {name: "done" for name in packed if "-" in name}
    results = {"title": "T", "task": "language_model", "status": status, "counts": {}, "rows": rows}
    write_json(tmp_path / "results.json", results)
    write_json(tmp_path / "environment.json", {"date": "2026-11-22", "gpu": None, "cpu": "cpu", "torch": "2"})
    write_json(tmp_path / "outcomes.json", {"questions": questions, "correct": packed})
    tried = {"method": "kd", "learning_rate": 1e-4, "metric": "exact_match", "value": 0.5, "outcome": "done"}
    write_json(tmp_path / "search.json", [tried])
    (tmp_path / "recipe.yaml").write_text("methods: [{name: kd, label: kd}]\n")
    arithmetic_table.write_page(tmp_path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    kd = np.mean([[int(digit) for digit in packed[f"kd-seed{seed}"]] for seed in range(2)])
    grkd = np.mean([[int(digit) for digit in packed[f"grkd-seed{seed}"]] for seed in range(2)])
    assert re.search(rf"\| grkd \| {re.escape(f'{100 * (grkd - kd):+.1f}')} \| .* \| better \|", page)
    assert re.search(r"\| ce \| -.* \| worse \|", page)
    assert "| kd | learning_rate 0.0001 | 0.5000 |" in page
    assert "mawps (60)" in page
