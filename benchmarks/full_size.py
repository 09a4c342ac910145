"""Training at the paper's sizes on one GPU, beside TRL and loops written by hand in the same run; random weights.

    python -m benchmarks.full_size [--pairs llama,gemma] [--only CASES] [--steps 6] [--warm-up 3] [--seconds 450]
        [--profile] [--device auto] [--tiny] [--date YYYY-MM-DD] [--out FOLDER]
    python -m benchmarks.full_size merge FOLDER
    python -m benchmarks.full_size table

Pairs: Gemma-2 9B -> 2B and Llama 3.1 8B -> 3.2 3B. A step has 16 sequences of 256 + 512 random tokens (varied: each
length uniform between 1/4 and 7/4 of it), AdamW, bfloat16 weights. --only: names of cases (benchmarks/
_full_size_cases.py), in that order. --seconds: no case begins later. --tiny: small models, not compiled, for a CPU.
--profile: three steps more per case of a trainer; `where` says what a step's time goes to, `waits` which lines make the
host wait for the GPU.
DATE-full-size-PAIR.json is written after every case, so a run that is cut short keeps what it has measured; a later
run adds its cases to the file of its date, and a failure replaces nothing measured. Of each case: ms of every step and
their median without the warm-up (or the error), tokens per second (real ones, prompts included), peak memory, and the
share of the time that its operations take at the rate of a large bfloat16 product measured in the same run: `done` with
recomputation, `needed` without.
`merge` puts the cases of a folder's files over those of benchmarks/results. `table` writes the tables of
docs/performance.md. Both measure nothing.
"""

import argparse
import gc
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import full_size_table
from benchmarks._full_size_cases import CASES, Case
from benchmarks._full_size_models import PAIRS, built, configs, random_items, step_flops, word_tokenizer
from benchmarks._full_size_runs import RUNS, Work
from benchmarks._measure import about, told
from benchmarks._where_time_goes import PROFILED, Watch
from grkd.environment import environment
from grkd.models.float8 import is_float8, to_float8

RESULTS = Path(__file__).parent / "results"
GIB = 2**30


def measured(case: Case, work: Work, configs_of: tuple[Any, Any], rate: float | None, warm_up: int) -> dict[str, Any]:
    """One row of the result."""
    gpu = work.device.type == "cuda"
    held = torch.cuda.memory_allocated() / GIB if gpu else 0.0
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    found = RUNS[case.runs](work)
    times = found.pop("step_ms")
    if isinstance(watch := work.watch, Watch) and watch.where:
        times = times[:-PROFILED]
        found |= {"where": watch.where, "waits": watch.waits}
    milliseconds = statistics.median(times[warm_up:])
    teacher, student = configs_of
    flops = step_flops(
        student,
        teacher,
        work.items,
        recompute=case.recompute,
        body=case.teacher_runs,
        head=case.by_token,
        copies=case.per_prompt if found.get("shared") else 1,
        kept_layers=case.kept_layers,
    )
    tokens = sum(len(item.prompt_ids) + len(item.response_ids) for item in work.items) / work.steps
    shares = {
        name: None if rate is None else round(value / work.steps / rate / milliseconds * 1000, 3)
        for name, value in flops.items()
    }
    return {
        "step_ms": round(milliseconds, 1),
        "all_step_ms": [round(each, 1) for each in times],
        "tokens_per_second": round(tokens / milliseconds * 1000, 1),
        "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 1) if gpu else None,
        "weights_gib": round(held, 1),
        "floor_share": shares,
        "seconds": round(time.perf_counter() - start, 1),
        **found,
    }


def product_rate(device: torch.device) -> float | None:
    """Operations per second of a bfloat16 product of 8192 x 8192 matrices; None on a CPU."""
    if device.type != "cuda":
        return None
    one = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(5):
        one @ one
    begin.record()
    for _ in range(20):
        one @ one
    end.record()
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (begin.elapsed_time(end) / 1000)


def run_pair(pair: str, arguments: argparse.Namespace, device: torch.device, result: dict[str, Any], out: Path) -> None:
    """All chosen cases of a pair; the file is written after each."""
    sides = configs(pair, tiny=arguments.tiny)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    path = out / f"{result['date']}-full-size-{pair}.json"
    rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else {}
    teacher: Any = None
    profiled = arguments.profile and device.type == "cuda"
    steps = arguments.warm_up + arguments.steps + (PROFILED if profiled else 0)
    for name in arguments.only:
        if time.perf_counter() - arguments.begun > arguments.seconds:
            print(f"{pair} {name}: not begun, out of time", flush=True)
            continue
        case = _tiny(CASES[name]) if arguments.tiny else CASES[name]
        items = random_items(
            case.sequences * steps, case.lengths, vocabulary=sides[1].vocab_size, per_prompt=case.per_prompt
        )
        folder = Path(tempfile.mkdtemp())
        before = "sdpa"
        try:
            if teacher is None or is_float8(teacher) is not case.float8:
                teacher = None
                _free(device)
                teacher = built(sides[0], dtype=dtype, device=device, seed=0).eval().requires_grad_(False)
                teacher = to_float8(teacher) if case.float8 else teacher
            before = teacher.config._attn_implementation
            of_student = torch.float32 if case.masters else torch.bfloat16 if case.copies else dtype
            student = built(sides[1], dtype=of_student, device=device, seed=1)
            work = Work(
                case=case, student=student, teacher=teacher, items=items, steps=steps, device=device, folder=folder,
                tokenizer=lambda: word_tokenizer(sides[1].vocab_size), watch=Watch(steps) if profiled else None,
            )  # fmt: skip
            row = measured(case, work, sides, result["product_flops_per_second"], arguments.warm_up)
        except Exception as error:  # a peer that fails must not end the run
            row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        source = {key: result[key] for key in ("command", "commit", "date")}
        row |= {"against": case.against, **source}
        print(f"{pair} {name}: {row}", flush=True)
        if "step_ms" in row or "step_ms" not in rows.get(name, {}):
            rows[name] = row
        student = work = None
        if teacher is not None:
            teacher.set_attn_implementation(before)
            for module in teacher.modules():
                module._compiled_call_impl = None
        shutil.rmtree(folder, ignore_errors=True)
        _free(device)
        path.write_text(json.dumps({**result, "pair": pair, "cases": rows}, indent=1) + "\n", encoding="utf-8")


def merged(folder: Path, results: Path | None = None) -> list[Path]:
    """Put the cases that a folder's files measured over those of the newest result file of their pair.

    A case says by itself its command, commit and date. One that failed replaces none that was measured; what another
    replaces is kept under `earlier`.
    """
    results, written = RESULTS if results is None else results, []
    for path in sorted(folder.rglob("*-full-size-*.json")):
        new = json.loads(path.read_text(encoding="utf-8"))
        older = sorted(results.glob(f"*-full-size-{new['pair']}.json"))
        whole = json.loads(older[-1].read_text(encoding="utf-8")) if older else {**new, "cases": {}}
        for name, row in new["cases"].items():
            source = {key: new[key] for key in ("command", "commit", "date")}
            before = whole["cases"].get(name, {})
            if "error" in row and "step_ms" in before:
                continue
            if "step_ms" in before:
                whole.setdefault("earlier", {}).setdefault(name, []).append(before)
            whole["cases"][name] = {**source, **row}
        written.append(older[-1] if older else results / path.name)
        written[-1].write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return written


def _tiny(case: Case) -> Case:
    """On a CPU compiling takes minutes."""
    return replace(case, lengths=replace(case.lengths, prompt=8, response=12), compiled=False)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    if list(words) == ["table"]:
        full_size_table.write_page()
        return
    if list(words[:1]) == ["merge"]:
        for path in merged(Path(words[1])):
            print(path)
        return
    arguments = _parser().parse_args(words)
    arguments.begun = time.perf_counter()
    device = torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if arguments.device == "auto" else arguments.device
    )
    result = about(arguments.date, told("benchmarks.full_size", words), gpu=device.type == "cuda")
    result["commit"] = arguments.commit or environment(result["command"])["git_commit"]
    result["product_flops_per_second"] = product_rate(device)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for pair in arguments.pairs:
        run_pair(pair, arguments, device, result, arguments.out)
        _free(device)
    print(full_size_table.tables(full_size_table.results(arguments.out)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=_among(PAIRS), default=["llama", "gemma"], help="such as llama,gemma")
    parser.add_argument("--only", type=_among(CASES), default=list(CASES), help="such as tokens,trl")
    parser.add_argument("--steps", type=int, default=6, help="measured")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before them")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="no case begins later")
    parser.add_argument("--profile", action="store_true", help="say where a step's time goes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true", help="small models")
    parser.add_argument("--date")
    parser.add_argument("--commit", help="what the code is, where there is no git")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


def _among(known: Any) -> Any:
    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return chosen

    return names


if __name__ == "__main__":
    main()
