"""A whole run by two processes, killed and resumed, beside the same run by one: are the metrics the same?

    python -m benchmarks.launched_run RECIPE FOLDER [--way fsdp] [--batch-size 16] [--kill-at 40] [--seconds 600]
        [--date YYYY-MM-DD] [--commit HASH] [--out FILE] [KEY=VALUE ...]

`accelerate launch --num_processes 2 -m grkd run RECIPE` (FSDP2 or DDP; torchrun and DDP on a machine without GPUs)
trains with half of --batch-size per process. All of its processes are killed by SIGKILL once the first training has
written the checkpoint of step --kill-at, and the same command is given again. Meanwhile one process makes the run.
What --seconds or a kill has ended is taken up by the same command in the same FOLDER; nothing is killed a second time.
KEY=VALUE: changes of the recipe for both. Rows of the result: method, seed, metric, the value with one process and its
confidence interval, the value with two. difference_of_seeds: what two seeds of one process differ by, for comparison.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks._launch import Launch, by_accelerate, usual_environment
from benchmarks._measure import about, told
from grkd.files import read_text, write_text

RESULTS = Path(__file__).parent / "results"


def launcher(way: str) -> list[str]:
    """Words that start two processes; accelerate's launcher starts one where there are no GPUs."""
    if not torch.cuda.is_available():
        return ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    return by_accelerate(2, way)


def killed(words: Sequence[str], run: Path, log: Path, *, step: int, until: float) -> str:
    """Kill the launch once a checkpoint of this step is whole: its name. RuntimeError if the launch ends first."""
    with Launch(words, log) as launch:
        while launch.is_running() and time.monotonic() < until:
            found = [each for each in run.glob("train/*.partial/checkpoints/*/whole") if _step(each.parent) >= step]
            if found:
                outer = psutil.Process(launch.process.pid)
                for process in [outer, *outer.children(recursive=True)]:
                    process.kill()
                return str(found[0].parent.relative_to(run))
            time.sleep(0.05)
    raise RuntimeError(f"no checkpoint of step {step} was written:\n{launch.printed()[-4000:]}")


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def compared(one: Path, two: Path) -> list[dict[str, Any]]:
    """A row per method, seed and metric of both runs."""
    found = [json.loads((run / "results.json").read_text(encoding="utf-8"))["rows"] for run in (one, two)]
    theirs = {_key(row): row for row in found[1]}
    assert theirs.keys() == {_key(row) for row in found[0]}, "the two runs have measured other things"
    rows = []
    for row in found[0]:
        first = next(each for each in found[0] if (each["method"], each["metric"]) == (row["method"], row["metric"]))
        rows.append(
            {name: row.get(name) for name in ("method", "seed", "metric", "value", "low", "high")}
            | {"two": theirs[_key(row)]["value"], "difference": theirs[_key(row)]["value"] - row["value"]}
            | ({} if row is first else {"difference_of_seeds": row["value"] - first["value"]})
        )
    return rows


def _key(row: dict[str, Any]) -> tuple[str, int | None, str]:
    return row["method"], row.get("seed"), row["metric"]


def main() -> None:
    settings = _parser().parse_intermixed_args()  # changes may follow an option
    until, folder = time.monotonic() + settings.seconds, settings.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    run = ["-m", "grkd", "run", str(settings.recipe), *settings.changes]
    alone = [sys.executable, *run, f"output={folder / 'one'}", f"training.batch_size={settings.batch_size}"]
    two = [f"output={folder / 'two'}", f"training.batch_size={settings.batch_size // 2}"]
    words = [*launcher(settings.way), *run, *two]
    with (folder / "one.log").open("wb") as log:
        environment = {**os.environ, **usual_environment()}
        one = subprocess.Popen(alone, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            if not (noted := folder / "killed-at.txt").exists():
                at = killed(words, folder / "two", folder / "killed.log", step=settings.kill_at, until=until)
                write_text(noted, at)
            print(f"killed at {(at := read_text(noted))}", flush=True)
            with Launch(words, folder / "resumed.log") as again:
                status = again.wait(max(1.0, until - time.monotonic()))
            assert status == 0, again.printed()[-4000:]
            assert one.wait(max(1.0, until - time.monotonic())) == 0, (folder / "one.log").read_text()[-4000:]
        finally:
            one.kill()
    said = about(settings.date, told("benchmarks.launched_run", sys.argv[1:]), gpu=torch.cuda.is_available())
    if torch.cuda.is_available():
        said["hardware"] = f"{torch.cuda.device_count()} x {said['hardware']}"
    place = json.loads((folder / "two" / "environment.json").read_text(encoding="utf-8"))
    made = {"processes": place["processes"], "backend": place["backend"], "killed_at": at}
    result = {**said, "commit": settings.commit, **made, "rows": compared(folder / "one", folder / "two")}
    out = settings.out or RESULTS / f"{said['date']}-launched-run-{settings.way}.json"
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in result["rows"]:
        print(f"{row['method']} {row['seed']} {row['metric']}: {row['value']:.4g} and {row['two']:.4g}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="of the recipe, for both runs")
    parser.add_argument("--way", choices=["fsdp", "ddp"], default="fsdp")
    parser.add_argument("--batch-size", type=int, default=16, help="of one process; each of two takes half")
    parser.add_argument("--kill-at", type=int, default=40, help="step whose checkpoint ends the first attempt")
    parser.add_argument("--seconds", type=float, default=600, help="after which all is ended")
    parser.add_argument("--date")
    parser.add_argument("--commit", help="of the code that is measured")
    parser.add_argument("--out", type=Path)
    return parser


if __name__ == "__main__":
    main()
