"""Tokens a second by the three ways to generate: growing cache, static cache with compile, continuous batching.

    python -m benchmarks.generation MODEL [--data FILE] [--prompts 256] [--n 4] [--max-new-tokens 256]
        [--batch-sizes 64,256,1024] [--methods dynamic,static,continuous] [--device auto]
        [--date YYYY-MM-DD] [--out FILE]

MODEL is a folder (or hub name). --data: JSONL of prompts, as a recipe's data.train; without it, prompts of random
tokens. Sampling is at temperature 1, top_p 0.95; a response ends at the model's stop tokens.
Rows of the result: case (model, prompts, responses a prompt, tokens, batch), impl, tokens_per_second (of responses, up
to the stop token; the second pass), first_seconds (the first pass: it compiles or records graphs), tokens, peak_mib
(allocated on the GPU beyond the model; null on a CPU). One that fails is named on standard error and left out.
"""

import argparse
import datetime
import importlib.metadata
import json
import platform
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grkd.data.chat import encode_prompt, stop_token_ids
from grkd.data.sources import read_examples
from grkd.models.generate import free_memory, generate_responses
from grkd.models.load import load_language_model, load_tokenizer

RESULTS = Path(__file__).parent / "results"
METHODS = ("dynamic", "static", "continuous")
MIB = 2**20


@dataclass(frozen=True)
class Work:
    """What every method has to do."""

    model: PreTrainedModel
    prompts: list[list[int]]
    n: int
    max_new_tokens: int
    stop_ids: list[int]
    pad_token_id: int

    def once(self, method: Any, batch_size: int, *, seed: int) -> tuple[int, float]:
        """(tokens, seconds) of one pass."""
        _wait(self.model)
        begin, tokens = time.perf_counter(), 0
        for batch in generate_responses(
            self.model,
            [prompt for prompt in self.prompts for _ in range(self.n)],
            max_new_tokens=self.max_new_tokens,
            temperature=1.0,
            top_p=0.95,
            stop_ids=self.stop_ids,
            pad_token_id=self.pad_token_id,
            seed=seed,
            batch_size=batch_size,
            method=method,
        ):
            tokens += sum(len(response.response_ids) for response in batch)
        _wait(self.model)
        return tokens, time.perf_counter() - begin


def measured(work: Work, case: str, method: str, batch_size: int) -> dict[str, Any]:
    """One row: a first pass that compiles, a second one that is timed."""
    gpu = work.model.device.type == "cuda"
    held = torch.cuda.memory_allocated() if gpu else 0
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    _, first = work.once(method, batch_size, seed=0)
    tokens, seconds = work.once(method, batch_size, seed=1)
    return {
        "case": f"{case}, batch {batch_size}",
        "impl": method,
        "tokens_per_second": round(tokens / seconds, 1),
        "first_seconds": round(first, 2),
        "tokens": tokens,
        "peak_mib": round((torch.cuda.max_memory_allocated() - held) / MIB, 1) if gpu else None,
    }


def loaded(arguments: argparse.Namespace, device: torch.device) -> Work:
    """The model on its device (bfloat16 on a GPU), and the prompts."""
    tokenizer = load_tokenizer(arguments.model)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = load_language_model(arguments.model, dtype=dtype).to(device)
    stop_ids = stop_token_ids(tokenizer, model.generation_config)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
    prompts = prompt_ids(arguments, tokenizer)
    return Work(model, prompts, arguments.n, arguments.max_new_tokens, stop_ids, pad)


def prompt_ids(arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The data's first prompts, or random tokens: 16 to 128 of them."""
    if arguments.data is not None:
        examples = read_examples(arguments.data, limit=arguments.prompts, groups=False)
        return [encode_prompt(tokenizer, example) for example in examples]
    draw, special = random.Random(0), set(tokenizer.all_special_ids)
    words = [token for token in sorted(tokenizer.get_vocab().values()) if token not in special]
    return [draw.choices(words, k=draw.randint(16, 128)) for _ in range(arguments.prompts)]


def about(date: str | None, words: Sequence[str], device: torch.device) -> dict[str, Any]:
    """Hardware, versions, date and command of the result file."""
    versions: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in ("torch", "transformers", "triton", "flash-attn"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU ({platform.machine()})",
        "versions": versions,
        "date": date or datetime.date.today().isoformat(),
        "command": " ".join(["python -m benchmarks.generation", *words]),
    }


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    arguments = _parser().parse_args(words)
    name = arguments.device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    result = about(arguments.date, words, device)
    out = arguments.out or RESULTS / f"{result['date']}-generation.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    work = loaded(arguments, device)
    case = (
        f"{Path(arguments.model).name}, {len(work.prompts)} prompts x {work.n}, up to {work.max_new_tokens} tokens, "
        f"{str(work.model.dtype).removeprefix('torch.')}"
    )
    rows: list[dict[str, Any]] = []
    for batch_size in arguments.batch_sizes:
        for method in arguments.methods:
            try:
                rows.append(measured(work, case, method, batch_size))
                print(rows[-1], flush=True)
            except (RuntimeError, MemoryError) as error:
                print(f"batch {batch_size} | {method}: {type(error).__name__}: {error}", file=sys.stderr)
            free_memory()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            out.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a model's folder or hub name")
    parser.add_argument("--data", type=Path, help="JSONL of prompts")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--n", type=int, default=4, help="responses a prompt")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--batch-sizes", type=_numbers, default=[64, 256, 1024], help="such as 64,256")
    parser.add_argument("--methods", type=_methods, default=list(METHODS), help="such as dynamic,static")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--date")
    parser.add_argument("--out", type=Path)
    return parser


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _methods(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(METHODS):
        raise argparse.ArgumentTypeError(f"no method {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    return chosen


def _wait(model: PreTrainedModel) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
