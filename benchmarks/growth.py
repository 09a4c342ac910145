"""How the cost of a training step grows with tokens, lengths, vocabulary and candidates; four layers of Llama's sizes.

    python -m benchmarks.growth [--only AXES] [--steps 4] [--warm-up 2] [--seconds 60] [--device auto] [--tiny]
        [--date YYYY-MM-DD] [--commit SHA] [--out FOLDER]
    python -m benchmarks.growth table

Teacher and student are Llama 3.1 8B and 3.2 3B cut to four layers, random weights in bfloat16; grkd on tokens, packed,
not compiled, without recomputing; a step has 16 sequences of 256 + 512 tokens and groups of 16 candidates, and one of
these changes along an axis. DATE-growth.json is written after every row: axis, value, ms of a step (median), tokens per
second, peak GiB. `table` measures nothing: it writes the table of docs/performance.md.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks._full_size_cases import Case
from benchmarks._full_size_models import Lengths, built, configs, random_items, word_tokenizer
from benchmarks._full_size_runs import Work
from benchmarks._measure import about
from benchmarks.full_size import measured
from grkd.environment import environment

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- growth: begin -->", "<!-- growth: end -->"
_LAYERS, _VOCABULARY = 4, 128_256
# Of each axis: what changes, and its values.
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "sequences": ("sequences of 256 + 512 tokens", (4, 8, 16, 32)),
    "length": ("tokens of a sequence, 12,288 in all", (192, 768, 3072, 6144)),
    "vocabulary": ("entries of the vocabulary", (32_064, 64_128, 128_256, 256_512)),
    "group": ("candidates of a group", (4, 16, 64)),
}
_BASE = Case(runs="grkd", options={"preset": "tokens"}, packed=True, recompute=False)


def case_of(axis: str, value: int) -> tuple[Case, int]:
    """The case, and the size of the vocabulary."""
    if axis == "sequences":
        return replace(_BASE, sequences=value), _VOCABULARY
    if axis == "length":
        lengths = Lengths(prompt=value // 3, response=value - value // 3)
        return replace(_BASE, sequences=12_288 // value, lengths=lengths), _VOCABULARY
    if axis == "group":
        parts = [{"part": "pairs", "group_size": value}]
        return replace(_BASE, options={**_BASE.options, "ranking": parts}), _VOCABULARY
    return _BASE, value


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    if list(words) == ["table"]:
        write_page()
        return
    options = _parser().parse_args(words)
    gpu = options.device != "cpu" and torch.cuda.is_available()
    device, begun = torch.device("cuda" if gpu else "cpu"), time.perf_counter()
    elsewhere = ("--out", "--commit")  # of these the result says nothing, or says it by itself
    told = [
        word for at, word in enumerate(words) if not (word.startswith(elsewhere) or (at and words[at - 1] in elsewhere))
    ]
    result = about(options.date, " ".join(["python -m benchmarks.growth", *told]), gpu=gpu)
    result["commit"] = options.commit or environment(result["command"])["git_commit"]
    rows: list[dict[str, Any]] = []
    options.out.mkdir(parents=True, exist_ok=True)
    for axis in options.only:
        for value in AXES[axis][1]:
            if time.perf_counter() - begun > options.seconds:
                print(f"{axis} {value}: not begun, out of time", flush=True)
                continue
            rows.append({"axis": axis, "value": value, **_row(axis, value, options, device)})
            print(rows[-1], flush=True)
            text = json.dumps({**result, "layers": _LAYERS, "rows": rows}, indent=1) + "\n"
            (options.out / f"{result['date']}-growth.json").write_text(text, encoding="utf-8")
    print(table({**result, "rows": rows}))


def _row(axis: str, value: int, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    case, vocabulary = case_of(axis, value)
    sides = configs("llama", tiny=options.tiny)
    for side in sides:
        side.num_hidden_layers = 1 if options.tiny else _LAYERS
        side.vocab_size = 96 if options.tiny else vocabulary
    if options.tiny:
        case = replace(case, sequences=min(4, case.sequences), lengths=Lengths(prompt=6, response=10))
    steps, folder = options.warm_up + options.steps, Path(tempfile.mkdtemp())
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        teacher, student = (built(side, dtype=dtype, device=device, seed=seed) for seed, side in enumerate(sides))
        work = Work(
            case=case, student=student, teacher=teacher.eval().requires_grad_(False), steps=steps, device=device,
            items=random_items(case.sequences * steps, case.lengths, vocabulary=sides[1].vocab_size, per_prompt=1),
            tokenizer=lambda: word_tokenizer(sides[1].vocab_size), folder=folder,
        )  # fmt: skip
        found = measured(case, work, sides, None, options.warm_up)
        return {name: found[name] for name in ("step_ms", "all_step_ms", "tokens_per_second", "peak_gib")}
    except Exception as error:  # one that does not fit must not end the run
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    finally:
        teacher = student = work = None
        shutil.rmtree(folder, ignore_errors=True)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def table(result: dict[str, Any]) -> str:
    """Markdown: where it was measured, and a row per value."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    lines = [
        f"{result['hardware']}; {versions}; {result['date']}; `{result['command']}`.",
        "",
        "| what changes | value | ms a step | tokens/s | peak GiB |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        cells = [AXES[row["axis"]][0], f"{row['value']:,}"]
        if "error" in row:
            cells += [row["error"].replace("|", "/")[:100], "", ""]
        else:
            peak = "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
            cells += [f"{row['step_ms']:,.0f}", f"{row['tokens_per_second']:,.0f}", peak]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_page() -> None:
    """Replace what stands between the marks by the newest result file."""
    newest = sorted(RESULTS.glob("*-growth.json"))[-1]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    found = table(json.loads(newest.read_text(encoding="utf-8")))
    PAGE.write_text(f"{before}{BEGIN}\n{found}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(AXES), help="axes: sequences,length")
    parser.add_argument("--steps", type=int, default=4, help="measured")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before them")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no row begins later")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true", help="small models")
    parser.add_argument("--date")
    parser.add_argument("--commit", help="what the code is, where there is no git")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    main()
