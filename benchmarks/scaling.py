"""Training on one and two GPUs: tokens per second and memory, for both pairs of the paper, beside TRL.

    python -m benchmarks.scaling [--only alone,two,large] [--pairs gemma,llama] [--steps 4] [--tiny]
        [--date YYYY-MM-DD] [--commit HASH] [--out FILE]
    python -m benchmarks.scaling table

Weights are random, shapes those of the published configs. Each GPU takes 16 examples of 256 + 512 tokens per step, so
that two GPUs have twice the work (weak scaling). `alone`: both pairs at once, each on one GPU. `two`: DDP, FSDP2, FSDP2
with a sharded teacher, and TRL's DistillationTrainer, on two GPUs. `large`: a teacher of twice the memory that each GPU
may use, its weights in the host's memory. AdamW, recomputed activations, a teacher in bfloat16; student weights are
float32 under bfloat16 autocast, or bfloat16 where a case says so. Rows: pair, case, gpus, step_ms (the median),
tokens_per_second (of all GPUs, prompts counted in), peak_gib_per_gpu, loss. Parts of a file that are not measured anew
stay. `table` measures nothing: it writes the table of docs/performance.md.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import scaling_table
from benchmarks._measure import about

RESULTS = Path(__file__).parent / "results"
PARTS = ("alone", "two", "large")
PAIRS = {"gemma": "gemma-2 9B to 2B", "llama": "llama-3 8B to 3B"}
ALONE = ["grkd, DDP", "grkd, DDP, bfloat16 weights", "TRL, DDP, bfloat16 weights"]
TWO = ["grkd, DDP", "grkd, FSDP2", "TRL, DDP, bfloat16 weights", "grkd, FSDP2, teacher sharded"]
LARGE = "grkd, FSDP2, teacher offloaded"
_LIMIT_SECONDS = 400  # of one launch


def started(words: list[str], folder: Path, settings: argparse.Namespace, gpus: list[str]) -> Any:
    """A launch of cases "PAIR: CASE", its output in a log in the folder."""
    name = "-".join([*gpus, words[0].split(":")[0].replace(" ", "_")])
    words = ["-m", "benchmarks._scaling_work", str(folder), str(settings.steps), *words]
    if len(gpus) > 1 or settings.tiny:
        count = max(2, len(gpus))
        words = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", "--standalone", *words]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    environment |= {"GRKD_TINY": "1"} if settings.tiny else {}
    environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    environment.setdefault("OMP_NUM_THREADS", "4")
    log = (folder / f"{name}.log").open("w")
    return subprocess.Popen([sys.executable, *words], env=environment, stdout=log, stderr=subprocess.STDOUT)


def ended(launches: dict[str, Any], folder: Path) -> Iterator[None]:
    """Wait for launches, a moment at a time; say how each ended. They are ended with this process."""
    begun = time.perf_counter()
    try:
        while any(process.poll() is None for process in launches.values()):
            if time.perf_counter() - begun > _LIMIT_SECONDS:
                break
            time.sleep(1)
            yield
    finally:
        for process in launches.values():
            if process.poll() is None:
                process.terminate()
                process.wait()
    for name, process in launches.items():
        print(f"{name}: status {process.returncode}, {time.perf_counter() - begun:.0f} s", flush=True)
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        if any("failed" in line or "Error" in line for line in lines):
            print(f"--- end of {log.name}", *lines[-60:], sep="\n", flush=True)
        log.unlink()
    yield


def measured(settings: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """The rows so far, again and again; those of a launch that fails or takes too long are missing."""
    count = torch.cuda.device_count()
    gpus = [str(number) for number in range(min(2, count))]
    pairs = [PAIRS[name] for name in settings.pairs]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)

        def rows() -> list[dict[str, Any]]:
            return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]

        if "alone" in settings.only:
            each = {
                pair: started([f"{pair}: {case}" for case in ALONE], folder, settings, gpus[number : number + 1])
                for number, pair in enumerate(pairs)
            }
            for _ in ended(each, folder):
                yield rows()
        # One launch for all, since starting processes takes longest; what matters most first.
        words = [f"{pair}: {case}" for case in TWO for pair in pairs] if "two" in settings.only else []
        words[5:5] = [f"large teacher: {LARGE}"] if "large" in settings.only else []
        if words:
            for _ in ended({"two GPUs": started(words, folder, settings, gpus)}, folder):
                yield rows()


def main() -> None:
    """Measure, or write the page's table."""
    if sys.argv[1:] == ["table"]:
        scaling_table.write_page()
        return
    settings = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the launches, too
    gpu = torch.cuda.is_available()
    command = "python -m benchmarks.scaling " + " ".join(sys.argv[1:])
    said = about(settings.date, command, gpu=gpu)
    out = settings.out or RESULTS / f"{said['date']}-scaling.json"
    rows = {_key(row): row for row in json.loads(out.read_text(encoding="utf-8"))["rows"]} if out.exists() else {}
    hardware = f"{torch.cuda.device_count()} x {said['hardware']}" if gpu else said["hardware"]
    source = {"date": said["date"], "commit": settings.commit, "command": said.pop("command")}
    result: dict[str, Any] = {**said, "hardware": hardware, "rows": list(rows.values())}
    shown: set[tuple[str, str, int]] = set()
    for new in measured(settings):
        for row in new:
            if _key(row) not in shown:
                shown.add(_key(row))
                print(json.dumps(row), flush=True)
                rows[_key(row)] = {**row, **source}
                result["rows"] = list(rows.values())
                out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(scaling_table.sections(result))


def _key(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["pair"], row["case"], row["gpus"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help="such as alone,two")
    parser.add_argument("--pairs", type=lambda text: text.split(","), default=list(PAIRS), help="gemma, llama")
    parser.add_argument("--steps", type=int, default=4, help="measured steps")
    parser.add_argument("--tiny", action="store_true", help="tiny models on two processes, to try the script on a CPU")
    parser.add_argument("--date")
    parser.add_argument("--commit", help="of the code that is measured")
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    main()
