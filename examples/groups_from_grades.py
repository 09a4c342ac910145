"""Graded answers, one per row, as groups of responses that methods on responses learn from.

    python examples/groups_from_grades.py groups_scored.parquet question.jsonl groups.jsonl

The defaults are the names of arena_bench_v1 (answers of 17 models to the same prompts, graded 1 to 10 by GPT-4):
answers in a Parquet or CSV file with a group's id, a text and a grade per row; prompts in a JSONL file with the same
id. A grade that is missing or below --lowest is null: no opinion, the answer is in no pair. Left out, and counted:
empty answers, the same answer twice in a group, and groups whose grades are all the same. A recipe reads the result by

    data: {train: groups.jsonl}
    responses: {source: data, n: 8}
    score: {reward: data}
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from pyarrow import csv, parquet


def groups(
    rows: list[dict[str, Any]], prompts: dict[str, str], *, group: str, text: str, grade: str, lowest: float
) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Records of prompt, responses and teacher_scores, and what was left out."""
    answers: dict[str, dict[str, float | None]] = defaultdict(dict)
    left_out: Counter[str] = Counter()
    for row in rows:
        answer, score = str(row[text] or "").strip(), row[grade]
        if not answer:
            left_out["empty answers"] += 1
        elif answer in answers[row[group]]:
            left_out["answers that are there twice"] += 1
        else:
            known = score is not None and score >= lowest
            answers[row[group]][answer] = float(score) if known else None
    found = []
    for name, scored in answers.items():
        if len({score for score in scored.values() if score is not None}) < 2:
            left_out["groups without an order"] += 1
            continue
        record = {"id": str(name), "prompt": prompts[name], "responses": list(scored)}
        found.append({**record, "teacher_scores": list(scored.values())})
    return found, left_out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--group", default="question_id")
    parser.add_argument("--text", default="output")
    parser.add_argument("--grade", default="gpt4_score")
    parser.add_argument("--prompt", default="turns", help="a text, or a list of which the first is taken")
    parser.add_argument("--lowest", type=float, default=0.0)
    options = parser.parse_args()
    table = (
        parquet.read_table(options.answers) if options.answers.suffix == ".parquet" else csv.read_csv(options.answers)
    )
    rows = table.select([options.group, options.text, options.grade]).to_pylist()
    prompts = {}
    for line in options.prompts.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        value = record[options.prompt]
        prompts[record[options.group]] = value if isinstance(value, str) else value[0]
    names = {"group": options.group, "text": options.text, "grade": options.grade}
    found, left_out = groups(rows, prompts, **names, lowest=options.lowest)
    options.output.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    responses = sum(len(one["responses"]) for one in found)
    dropped = "".join(f"; {count} {what} left out" for what, count in left_out.items())
    print(f"{options.output}: {len(found)} groups of {responses} responses{dropped}")


if __name__ == "__main__":
    main()
