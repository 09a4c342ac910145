"""The pairs of benchmarks.plan: each a folder with models, data and recipe.yaml."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from benchmarks._full_size_models import word_tokenizer

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


def made(folder: Path, pair: tuple[Any, ...], *, steps: int, seed: int = 0) -> None:
    """Models, data and recipe.yaml of a pair, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
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


def write_records(path: Path, count: int, vocabulary: int, longest: int, drawn: random.Random) -> None:
    def words(fewest: int, most: int) -> str:
        return " ".join(f"w{drawn.randrange(4, vocabulary)}" for _ in range(drawn.randint(fewest, most)))

    records = ({"prompt": words(*_PROMPT), "completion": words(longest // 4, longest)} for _ in range(count))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def cached(folder: Path, steps: int) -> None:
    """The toy pair, its teacher in a cache of ranks."""
    from grkd import cli

    made(folder, TOY, steps=steps)
    path = folder / "recipe.yaml"
    assert cli.main(["cache", "build", str(path), str(folder / "cache")]) == 0
    path.write_text(path.read_text().replace("teacher: {model: ./teacher}", "teacher: {cache: ./cache}"))


def smollm2(folder: Path, steps: int) -> None:
    """SmolLM2-135M of the demo's wheel to 3 of its 30 layers; a tenth of the steps, since one takes so long."""
    from grkd.demo import teacher_folder

    folder.mkdir(parents=True, exist_ok=True)
    count, drawn = max(4, steps // 10) * 2 + 16, random.Random(0)
    records = [
        {"prompt": f"What is {a} + {b}?", "completion": f"{a} and {b} make {a + b}, {'as you see ' * (a % 5)}I think."}
        for a, b in ((drawn.randint(2, 99), drawn.randint(2, 99)) for _ in range(count))
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    model = f"{{model: {teacher_folder()}, gguf_file: SmolLM2-135M-Instruct.Q4_1.gguf}}"
    (folder / "recipe.yaml").write_text(
        f"task: language_model\noutput: run\nteacher: {model}\nstudent: {{layers: [0, 15, 29]}}\n"
        f"data: {{train: train.jsonl, heldout_fraction: {16 / count}}}\n"
        "responses: {source: data, max_new_tokens: 48}\nmethods: [kd]\n"
        "training: {epochs: 1, batch_size: 2, save_every: 100000}\nevaluation: {samples: 1, sample_tokens: 8}\n"
    )


def digits(folder: Path, steps: int) -> None:
    """Handwritten digits, two methods by two seeds; the teacher is trained first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(
        "task: classifier\noutput: run\ndevice: cpu\ndata: {dataset: digits}\n"
        "teacher: {model: mlp, options: {hidden: [256, 256]}, training: {epochs: 10, batch_size: 64}}\n"
        "student: {model: mlp, options: {hidden: [8]}}\nmethods: [kd, grkd]\nseeds: [0, 1]\n"
        f"training: {{steps: {4 * steps}, batch_size: 64, learning_rate: 1.0e-2}}\n"
    )


def ranker(folder: Path, steps: int) -> None:
    """400 lists of eight, whose scores are the teacher; two methods teach a tower on words."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{drawn.randrange(200)}" for _ in range(count))

    with (folder / "lists.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(400):
            scores = [drawn.gauss(0.0, 1.0) for _ in range(8)]
            record = {"query": words(3), "candidates": [words(6) for _ in scores], "scores": scores}
            file.write(json.dumps(record) + "\n")
    (folder / "recipe.yaml").write_text(
        "task: rank\noutput: run\ndevice: cpu\ndata: {train: lists.jsonl}\nmethods: [kd, grkd]\n"
        f"student: {{dimensions: 32}}\ntraining: {{steps: {2 * steps}, batch_size: 16}}\n"
    )


# Of --cpu.
SMALL: dict[str, Callable[[Path, int], None]] = {
    "tiny": lambda folder, steps: made(folder, TOY, steps=steps),
    "cached": cached,
    "smollm2": smollm2,
    "digits": digits,
    "ranker": ranker,
}
