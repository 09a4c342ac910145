"""Training on one and two GPUs: tokens per second and memory, for both pairs of the paper, beside TRL.

    python -m benchmarks.scaling [--only alone,two,large] [--pairs gemma,llama] [--steps 6] [--tiny]
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
TWO = [*ALONE, "grkd, FSDP2", "grkd, FSDP2, teacher sharded"]
LARGE = ["grkd, FSDP2, teacher offloaded"]
_LIMIT_SECONDS = 200  # of one launch


def started(pair: str, cases: list[str], folder: Path, settings: argparse.Namespace, gpus: list[str]) -> Any:
    """A launch, its output in FOLDER/PAIR.log."""
    words = ["-m", "benchmarks._scaling_work", pair, str(folder), str(settings.steps), *cases]
    if len(gpus) > 1 or settings.tiny:
        count = max(2, len(gpus))
        words = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", "--standalone", *words]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    environment |= {"GRKD_TINY": "1"} if settings.tiny else {}
    environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    environment.setdefault("OMP_NUM_THREADS", "4")
    log = (folder / f"{pair}-{len(gpus)}.log".replace(" ", "_")).open("w")
    return subprocess.Popen([sys.executable, *words], env=environment, stdout=log, stderr=subprocess.STDOUT)


def finished(launches: dict[str, Any], folder: Path) -> None:
    """Wait for launches; say how each ended."""
    for name, process in launches.items():
        try:
            status = process.wait(_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            status = f"stopped after {_LIMIT_SECONDS} s"
        print(f"{name}: {'done' if status == 0 else status}", flush=True)
    for log in folder.glob("*.log"):
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        print(*(line for line in lines if line.startswith("{")), sep="\n", flush=True)
        if any("failed" in line or "Error" in line for line in lines):
            print(f"--- end of {log.name}", *lines[-60:], sep="\n", flush=True)
        log.unlink()


def measured(settings: argparse.Namespace) -> Iterator[list[dict[str, Any]]]:
    """The rows of the parts that are asked for, after each launch; those of one that fails are missing."""
    count = torch.cuda.device_count()
    gpus = [str(number) for number in range(min(2, count))]
    pairs = [PAIRS[name] for name in settings.pairs]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)

        def rows() -> list[dict[str, Any]]:
            return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]

        if "alone" in settings.only:
            begun = time.perf_counter()
            each = {
                pair: started(pair, ALONE, folder, settings, gpus[number % max(1, len(gpus)) :][:1])
                for number, pair in enumerate(pairs)
            }
            finished(each, folder)
            print(f"alone: {time.perf_counter() - begun:.0f} s", flush=True)
            yield rows()
        for part, names, cases in (("two", pairs, TWO), ("large", ["large teacher"], LARGE)):
            for pair in names if part in settings.only else ():
                begun = time.perf_counter()
                finished({pair: started(pair, cases, folder, settings, gpus)}, folder)
                print(f"{pair}: {time.perf_counter() - begun:.0f} s", flush=True)
                yield rows()


def main() -> None:
    """Measure, or write the page's table."""
    if sys.argv[1:] == ["table"]:
        scaling_table.write_page()
        return
    settings = _parser().parse_args()
    gpu = torch.cuda.is_available()
    said = about(settings.date, "python -m benchmarks.scaling " + " ".join(sys.argv[1:]), gpu=gpu)
    out = settings.out or RESULTS / f"{said['date']}-scaling.json"
    rows = {_key(row): row for row in json.loads(out.read_text(encoding="utf-8"))["rows"]} if out.exists() else {}
    hardware = f"{torch.cuda.device_count()} x {said['hardware']}" if gpu else said["hardware"]
    result: dict[str, Any] = {**said, "hardware": hardware, "commit": settings.commit, "rows": []}
    for new in measured(settings):
        rows |= {_key(row): row for row in new}
        result["rows"] = list(rows.values())
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(scaling_table.sections(result))


def _key(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["pair"], row["case"], row["gpus"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help="such as alone,two")
    parser.add_argument("--pairs", type=lambda text: text.split(","), default=list(PAIRS), help="gemma, llama")
    parser.add_argument("--steps", type=int, default=6, help="measured steps")
    parser.add_argument("--tiny", action="store_true", help="tiny models on two processes, to try the script on a CPU")
    parser.add_argument("--date")
    parser.add_argument("--commit", help="of the code that is measured")
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    main()
