"""Training on one and two GPUs: tokens per second and memory, for both pairs of the paper, beside TRL.

    python -m benchmarks.scaling [--only one,alone,two,large] [--pairs gemma,llama] [--cases "grkd, FSDP2" ...]
        [--missing] [--steps 4] [--tiny] [--seconds 1200] [--case-seconds 90] [--date YYYY-MM-DD] [--commit HASH]
        [--out FILE]
    python -m benchmarks.scaling table

Weights are random, shapes those of the published configs. Each GPU takes 16 examples of 256 + 512 tokens per step, so
that two GPUs have twice the work (weak scaling). `one`: a teacher of twice the memory that the GPU may use, its weights
in the host's memory, and FSDP2, on one GPU. `alone`: both pairs on one GPU. `two`: DDP, FSDP2, FSDP2 with a sharded
teacher or compiled layers, and TRL's DistillationTrainer, on two GPUs. `large`: a teacher of twice the memory that each
of two GPUs may use. --cases picks among these, --missing those that the file has no row of; rows that are not measured
again stay. A case that fails is left out, with the end of its output, and the others go on. No checkpoint is written.
AdamW, recomputed activations, a teacher in bfloat16; student weights are float32 under bfloat16 autocast, or bfloat16
where a case says so. Layers are compiled where it says so, in the first step, which is not measured. Rows: pair, case,
gpus, step_ms (the median), tokens_per_second (of all GPUs, prompts counted in), peak_gib_per_gpu, loss. `table`
measures nothing: it writes the table of docs/performance.md.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import scaling_table
from benchmarks._launch import Launch
from benchmarks._measure import about, told

RESULTS = Path(__file__).parent / "results"
PARTS = ("one", "alone", "two", "large")
PAIRS = {"gemma": "gemma-2 9B to 2B", "llama": "llama-3 8B to 3B"}
ALONE = ["grkd, DDP", "grkd, DDP, bfloat16 weights", "TRL, DDP, bfloat16 weights", "grkd, DDP, compiled"]
TWO = ["grkd, DDP", "grkd, FSDP2", "TRL, DDP, bfloat16 weights", "grkd, FSDP2, teacher sharded"]
TWO += ["grkd, DDP, bfloat16 weights", "grkd, FSDP2, compiled"]
LARGE = "large teacher: grkd, FSDP2, teacher offloaded"
LARGE_ALONE = "large teacher for one GPU: grkd, teacher offloaded, bfloat16 weights"
Key = tuple[str, str, int]  # pair, case, GPUs
CASES = sorted({*ALONE, *TWO, *(word.split(": ")[1] for word in (LARGE, LARGE_ALONE))})


def launched(words: Sequence[str], folder: Path, settings: argparse.Namespace, processes: int) -> Iterator[None]:
    """Cases "PAIR: CASE" in launches one after the other; yields whenever there may be a new row.

    All in one launch, since starting processes takes longest. A case that fails, or that takes longer than
    settings.case_seconds, is left out, and another launch goes on with those after it.
    """
    left = list(words)
    while left and time.monotonic() < settings.until:
        print(f"{processes} GPU: {', '.join(left)}", flush=True)
        seen = _rows(folder)
        with Launch(_command(left, folder, settings, processes), folder / "launch.log", **_on(processes)) as launch:
            moved = time.monotonic()
            while launch.is_running():
                time.sleep(1)
                if (found := _rows(folder)) > seen:
                    moved, seen = time.monotonic(), found
                    yield
                if time.monotonic() > min(settings.until, moved + settings.case_seconds):
                    launch.end()
        yield
        left = [word for word in left if not (folder / row_file(word, processes)).exists()]
        if left:
            print(f"{left[0]}: left out; the end of its output:", launch.printed()[-6000:], sep="\n", flush=True)
            left = left[1:]


def _command(words: Sequence[str], folder: Path, settings: argparse.Namespace, processes: int) -> list[str]:
    """What Python runs: under torchrun if several processes work together, or one has its student sharded."""
    command = ["-m", "benchmarks._scaling_work", str(folder), str(settings.steps), *words]
    if settings.tiny:
        command.insert(2, "--tiny")
    if processes == 1 and not any("FSDP2" in word for word in words):
        return command
    return ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone", *command]


def _on(processes: int) -> dict[str, str]:
    """The first GPUs that this process may use."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
    return {"CUDA_VISIBLE_DEVICES": ",".join(seen.split(",")[:processes])}


def _rows(folder: Path) -> int:
    return len(list(folder.glob("*.json")))


def row_file(word: str, processes: int) -> str:
    """The name of the file with the row of "PAIR: CASE"."""
    return f"{word}-{processes}.json".replace(" ", "_").replace(":", "")


def parts(settings: argparse.Namespace, known: Collection[Key]) -> Iterator[tuple[int, list[str]]]:
    """Of each part the number of GPUs and the wanted cases, "PAIR: CASE"; known: those that have a row."""
    pairs = [PAIRS[name] for name in settings.pairs]
    first, more = ([f"{pair}: {case}" for pair in pairs for case in cases] for cases in (TWO[:2], TWO[2:]))
    large = [LARGE] if "large" in settings.only else []
    every = {
        "one": (1, [LARGE_ALONE, *(f"{pair}: grkd, FSDP2" for pair in pairs)]),
        "alone": (1, [f"{pair}: {case}" for pair in pairs for case in ALONE]),
        "two": (2, [*first, *large, *more]),
        "large": (2, [] if "two" in settings.only else large),
    }
    for part in settings.only:
        gpus, words = every[part]
        keys = [(*word.split(": "), gpus) for word in words]
        wanted = [key for key in keys if settings.cases is None or key[1] in settings.cases]
        yield gpus, [f"{key[0]}: {key[1]}" for key in wanted if not (settings.missing and key in known)]


def measured(settings: argparse.Namespace, known: Collection[Key]) -> Iterator[list[dict[str, Any]]]:
    """The rows so far, again and again; those of a case that fails or takes too long are missing."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for gpus, words in parts(settings, known):
            for _ in launched(words, folder, settings, gpus):
                yield [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def main() -> None:
    """Measure, or write the page's table."""
    if sys.argv[1:] == ["table"]:
        scaling_table.write_page()
        return
    settings = _parser().parse_args()
    settings.until = time.monotonic() + settings.seconds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the launches, too
    gpu = torch.cuda.is_available()
    said = about(settings.date, told("benchmarks.scaling", [shlex.quote(word) for word in sys.argv[1:]]), gpu=gpu)
    out = settings.out or RESULTS / f"{said['date']}-scaling.json"
    rows = {_key(row): row for row in json.loads(out.read_text(encoding="utf-8"))["rows"]} if out.exists() else {}
    if gpu:
        said["hardware"] = f"{torch.cuda.device_count()} x {said['hardware']}"
    # Of each row, since a file may hold those of machines with one GPU and with two.
    source = {name: said[name] for name in ("hardware", "date", "command")} | {"commit": settings.commit}
    del said["command"]
    result: dict[str, Any] = {**said, "rows": list(rows.values())}
    shown: set[Key] = set()
    for new in measured(settings, set(rows)):
        for row in new:
            if _key(row) not in shown:
                shown.add(_key(row))
                print(json.dumps(row), flush=True)
                rows[_key(row)] = {**row, **source}
                result["rows"] = list(rows.values())
                out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(scaling_table.sections(result))


def _key(row: dict[str, Any]) -> Key:
    return row["pair"], row["case"], row["gpus"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help="such as alone,two")
    parser.add_argument("--pairs", type=lambda text: text.split(","), default=list(PAIRS), help="gemma, llama")
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="CASE", help=f"of these parts: {'; '.join(CASES)}")
    parser.add_argument("--missing", action="store_true", help="only cases that the file has no row of")
    parser.add_argument("--steps", type=int, default=4, help="measured steps")
    parser.add_argument("--tiny", action="store_true", help="tiny models on two processes, to try the script on a CPU")
    parser.add_argument("--seconds", type=float, default=1200, help="after which what runs is ended")
    parser.add_argument("--case-seconds", type=float, default=90, help="after which a case is left out")
    parser.add_argument("--date")
    parser.add_argument("--commit", help="of the code that is measured")
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    main()
