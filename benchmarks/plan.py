"""How well `grkd plan` foretells: memory and time of five pairs, planned and then run.

    python -m benchmarks.plan [--only tiny,small] [--steps 60] [--date YYYY-MM-DD] [--commit HASH] [--out FOLDER]
        [--toy]
    python -m benchmarks.plan table

A pair is a teacher and a student with random weights, made from the configs below, with a word tokenizer and random
conversations of different lengths. Each is planned (a miniature of the run, a few prompts and eight steps), then run,
all in one process. Rows: pair, planned_seconds, seconds (of the run, from its first stage to its report),
planned_peak_gib and peak_gib (allocated on the GPU in training; null on a CPU), model_gib (the model of memory alone),
plan_took_seconds. --toy: models of 32 dimensions, for a CPU. DATE-plan.json in FOLDER is written after each pair.
"""

import argparse
import datetime
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from benchmarks._full_size_models import word_tokenizer
from benchmarks._measure import about
from grkd import recipe
from grkd.console import console
from grkd.files import write_json
from grkd.language import train as training_stage
from grkd.pipeline import run as pipeline
from grkd.planning.language import plan_language
from grkd.recipe import LanguageRecipe

RESULTS = Path(__file__).parent / "results"
GIB = 2**30
# name: vocabulary, (hidden, layers, heads, intermediate) of teacher and student, batch, longest answer, method
PAIRS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], int, int, str]] = {
    "tiny": (8_192, (512, 8, 8, 1536), (256, 6, 4, 768), 16, 128, "kd"),
    "small": (32_000, (768, 12, 12, 2048), (512, 8, 8, 1408), 16, 256, "grkd"),
    "wide-vocabulary": (128_256, (1024, 12, 16, 2816), (768, 8, 12, 2048), 8, 256, "kd"),
    "long": (32_000, (1024, 12, 16, 2816), (768, 12, 12, 2048), 4, 1024, "kd"),
    "middle": (49_152, (1536, 16, 12, 4096), (1024, 16, 16, 2816), 8, 384, "grkd"),
}
TOY = (64, (32, 3, 4, 48), (32, 2, 4, 48), 4, 12, "kd")
_PROMPT = (8, 48)  # words


def made(folder: Path, pair: tuple[Any, ...], *, steps: int, seed: int = 0) -> LanguageRecipe:
    """Models, data and recipe of a pair, in a folder."""
    vocabulary, teacher, student, batch, longest, method = pair
    tokenizer = word_tokenizer(vocabulary)
    for name, sizes in (("teacher", teacher), ("student", student)):
        hidden, layers, heads, intermediate = sizes
        set_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            intermediate_size=intermediate,
            max_position_embeddings=2048,
            bos_token_id=2,
            eos_token_id=1,
            pad_token_id=0,
        )
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_records(folder / "train.jsonl", steps * batch + 32, vocabulary, longest, random.Random(seed))
    path = folder / "recipe.yaml"
    path.write_text(
        f"task: language_model\noutput: run\nteacher: {{model: ./teacher}}\nstudent: {{model: ./student}}\n"
        f"data: {{train: train.jsonl, heldout_fraction: {32 / (steps * batch + 32)}}}\n"
        f"responses: {{source: data, max_new_tokens: {longest + 8}}}\nmethods: [{method}]\n"
        f"training: {{epochs: 1, batch_size: {batch}, save_every: 100000, compile: false}}\n"
        "evaluation: {samples: 2, sample_tokens: 16}\n"
    )
    found = recipe.read(path)
    assert isinstance(found, LanguageRecipe)
    return found


def write_records(path: Path, count: int, vocabulary: int, longest: int, drawn: random.Random) -> None:
    def words(fewest: int, most: int) -> str:
        return " ".join(f"w{drawn.randrange(4, vocabulary)}" for _ in range(drawn.randint(fewest, most)))

    records = ({"prompt": words(*_PROMPT), "completion": words(longest // 4, longest)} for _ in range(count))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@contextmanager
def watched() -> Iterator[list[int]]:
    """The GPU's peak of every training inside, in bytes."""
    peaks: list[int] = []
    real = training_stage.train_student

    def noted(*arguments: Any, **options: Any) -> Any:
        if not torch.cuda.is_available():
            return real(*arguments, **options)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        found = real(*arguments, **options)
        peaks.append(torch.cuda.max_memory_allocated())
        return found

    import grkd.language.stages as stages

    stages.train_student = noted
    try:
        yield peaks
    finally:
        stages.train_student = real


def measured(name: str, pair: tuple[Any, ...], *, steps: int) -> dict[str, Any]:
    """A pair planned, and then run."""
    with tempfile.TemporaryDirectory(prefix="grkd-plan-bench-") as place:
        spec = made(Path(place), pair, steps=steps)
        begin = time.perf_counter()
        plan = plan_language(spec, measured=True)
        took = time.perf_counter() - begin
        quiet, console.quiet = console.quiet, True
        begin = time.perf_counter()
        try:
            with watched() as peaks:
                status = pipeline.run(spec)
        finally:
            console.quiet = quiet
        seconds = time.perf_counter() - begin
        assert status == 0
    return {
        "pair": name,
        "planned_seconds": plan.seconds,
        "seconds": seconds,
        "planned_peak_gib": None if plan.peak is None else plan.peak / GIB,
        "peak_gib": max(peaks) / GIB if peaks else None,
        "model_gib": sum(plan.memory.values()) / GIB,
        "plan_took_seconds": took,
        "stages": {one.name: one.seconds * one.times for one in plan.stages},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """What was planned beside what was, in Markdown."""
    lines = ["| pair | planned, s | took, s | off | planned, GiB | took, GiB | off |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["pair"]]
        for planned, real in (("planned_seconds", "seconds"), ("planned_peak_gib", "peak_gib")):
            if row[real] is None:
                cells += ["-", "-", "-"]
                continue
            cells += [f"{row[planned]:.2f}", f"{row[real]:.2f}", f"{row[planned] / row[real] - 1:+.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("what", nargs="?", choices=["table"])
    add("--only", default=",".join(PAIRS))
    add("--steps", type=int, default=60)
    add("--date", default=str(datetime.datetime.now(datetime.UTC).date()))
    add("--commit", default="")
    add("--out", type=Path, default=RESULTS)
    add("--toy", action="store_true")
    settings = parser.parse_args()
    path = settings.out / f"{settings.date}-plan.json"
    if settings.what == "table":
        print(table(json.loads(sorted(settings.out.glob("*-plan.json"))[-1].read_text())["rows"]))
        return
    rows: list[dict[str, Any]] = []
    for name in settings.only.split(","):
        begin = time.perf_counter()
        try:
            rows.append(measured(name, TOY if settings.toy else PAIRS[name], steps=settings.steps))
        except Exception:  # one pair must not cost the others
            traceback.print_exc()
            continue
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
        settings.out.mkdir(parents=True, exist_ok=True)
        write_json(path, {"about": about_run(settings), "rows": rows})
    print(table(rows))


def about_run(settings: argparse.Namespace) -> dict[str, Any]:
    """The machine, the date, the commit and the command."""
    command = " ".join(["python -m benchmarks.plan", *sys.argv[1:]])
    return {**about(settings.date, command, gpu=torch.cuda.is_available()), "commit": settings.commit}


if __name__ == "__main__":
    main()
