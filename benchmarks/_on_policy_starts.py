"""The supervised starts of the on-policy experiment: SmolLM2-135M-Instruct, and twelve of its layers, fine-tuned.

As recipes/arithmetic-start.yaml in fewer, larger steps of packed rows, in one process and without that run's
measurements: where time on a GPU is short, those take longer than the training.
"""

import json
import time
from pathlib import Path

import torch

from benchmarks import arithmetic
from grkd import objectives
from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.language import Group, Item, vocabulary_size
from grkd.data.prompts import Example
from grkd.files import read_json, write_json
from grkd.models.cut import truncated
from grkd.models.load import load_language_model, load_tokenizer
from grkd.models.save import save_student
from grkd.recipe import Training
from grkd.run.jobs import free_gpu_memory
from grkd.run.training import drop_checkpoints, train
from grkd.training import LanguageRows

# Layers that are kept (all, if None) and the learning rate.
SIDES: dict[str, tuple[list[int] | None, float]] = {"student": (arithmetic.LAYERS, 7e-4), "teacher": (None, 3e-4)}


def start_of(folder: Path, side: str) -> Path:
    """Where a start lies: the same place as that of benchmarks.arithmetic."""
    return folder / side / "train" / "sft-seed0" / "student"


def prepare_starts(folder: Path) -> None:
    """The tokenizer and the token ids of start.jsonl, once: start/. No GPU is needed, so it can be made elsewhere."""
    if (folder / "start" / "items.json").exists():
        return
    tokenizer = load_tokenizer(_source())
    stop_ids = stop_token_ids(tokenizer)
    items = {}
    for record in map(json.loads, (folder / "start.jsonl").read_text(encoding="utf-8").splitlines()):
        asked = Example(id=record["id"], prompt=record["prompt"], completion=record["completion"])
        key = (asked.prompt, record["completion"])  # some problems stand there three times
        if key not in items:
            items[key] = [encode_prompt(tokenizer, asked), encode_response(tokenizer, asked, stop_ids=stop_ids), 0]
        items[key][2] += 1
    tokenizer.save_pretrained(folder / "start")
    write_json(folder / "start" / "items.json", list(items.values()))


def make_starts(folder: Path, *, epochs: float = 3.0, batch_size: int = 128) -> None:
    """Both starts, those that are not there yet."""
    missing = [side for side in SIDES if not (start_of(folder, side) / "config.json").exists()]
    if not missing:
        return
    prepare_starts(folder)
    tokenizer = load_tokenizer(str(folder / "start"))
    groups = [
        Group(id=name, items=(Item(name, *ids),), teacher_scores=(0.0,), sources=("data",))
        for number, (*ids, copies) in enumerate(read_json(folder / "start" / "items.json"))
        for name in (f"{number}/{copy}" for copy in range(copies))
    ]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    base = load_language_model(_source(), dtype=torch.float32)
    for side in missing:
        begun = time.monotonic()
        layers, rate = SIDES[side]
        work = start_of(folder, side).parent
        work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        student = train(
            truncated(base, range(base.config.num_hidden_layers) if layers is None else layers),
            groups,
            objective=objectives.load("sft"),
            rows=LanguageRows(
                pad_token_id=stop_token_ids(tokenizer)[0],
                vocabulary=vocabulary_size(tokenizer),
                trains_on="data",
                tokens_per_batch=65_536,
            ),
            training=Training(
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=rate,
                save_every=100_000,
                tokens_per_batch=65_536,
                compile=False,
                gradient_checkpointing=False,
            ),
            folder=work,
            seed=0,
            where=device,
            bf16=device.type == "cuda",
            description=f"start of the {side}",
        )
        drop_checkpoints(work)
        save_student(student, tokenizer, start_of(folder, side), card=f"The {side} of the on-policy experiment.\n")
        del student
        free_gpu_memory()
        print(f"start of the {side}: {time.monotonic() - begun:.0f} s", flush=True)


def _source() -> str:
    """SmolLM2-135M-Instruct: the GGUF file of its folder, else the folder itself."""
    place = arithmetic.smollm2()
    return str(next(iter(sorted(place.glob("*.gguf"))), place))
