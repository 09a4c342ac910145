"""Tokens per second of the ways to sample: generate over a growing cache, over a compiled static one, our decode step.

    python -m benchmarks.generation MODEL [--layers 12] [--data FILE] [--prompts N] [--n 1] [--prompt-tokens 128]
        [--max-new-tokens 256] [--batch-sizes 64,256,512] [--methods dynamic,static,graph] [--top-p 1.0] [--run-on]
        [--profile] [--device auto] [--date YYYY-MM-DD] [--out FILE]
    python -m benchmarks.generation table

MODEL: a folder, a GGUF file, a hub name, or a size with random weights: smollm2-135m, llama-3b, tiny.
--layers keeps the first so many. --data: JSONL of prompts, as a recipe's data.train; without it, prompts of random
tokens, 16 to 128 of them or --prompt-tokens. --prompts: how many; by default as many as rows are decoded at a time.
--run-on: no stop tokens, so that all responses are equally long. --profile prints the kernels of 32 decode steps.
Sampling is at temperature 1. Rows of the result: case, impl, tokens_per_second (of responses, the second pass),
first_seconds (a pass of 4 tokens: it compiles or records graphs), tokens, bandwidth_share (weights read once per step
and the cache that each row has, over the time, over the rate of a large copy on this device; with --run-on), peak_mib
(allocated beyond the model; null on a CPU), greedy_rows_equal and greedy_first_tokens_equal (of answers at temperature
0, against dynamic). A method that fails is named on standard error and left out. `table` measures nothing: it writes
the tables of docs/performance.md from benchmarks/results/DATE-generation-MODEL.json, where FILE is by default.
"""

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from benchmarks import generation_table
from benchmarks._generation_work import SIZES, Work
from benchmarks._measure import about, told
from grkd.data.chat import encode_prompt, stop_token_ids
from grkd.data.sources import read_examples
from grkd.models.cut import truncated
from grkd.models.generate import free_memory
from grkd.models.load import load_language_model, load_tokenizer

RESULTS = Path(__file__).parent / "results"
METHODS = ("dynamic", "static", "graph")
MIB = 2**20


def measured(
    work: Work, case: str, method: str, batch_size: int, *, rate: float | None, greedy: list[list[int]] | None
) -> tuple[dict[str, Any], list[list[int]]]:
    """One row of the result, and the greedy answers."""
    gpu = work.model.device.type == "cuda"
    held = torch.cuda.memory_allocated() if gpu else 0
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    _, first = _timed(work.model, lambda: work.once(method, batch_size, most=4))
    responses, seconds = _timed(work.model, lambda: work.once(method, batch_size, seed=1))
    answers = work.once(method, batch_size, temperature=0.0)
    tokens = sum(map(len, responses))
    row = {
        "case": f"{case}, batch {batch_size}",
        "impl": method,
        "tokens_per_second": round(tokens / seconds, 1),
        "first_seconds": round(first, 2),
        "tokens": tokens,
        "bandwidth_share": None if rate is None else round(work.bytes_read(responses, batch_size) / seconds / rate, 3),
        "peak_mib": round((torch.cuda.max_memory_allocated() - held) / MIB, 1) if gpu else None,
    }
    if greedy is not None:
        pairs = list(zip(answers, greedy, strict=True))
        row["greedy_rows_equal"] = round(sum(ours == theirs for ours, theirs in pairs) / len(pairs), 3)
        row["greedy_first_tokens_equal"] = round(sum(a[0] == b[0] for a, b in pairs) / len(pairs), 3)
    return row, answers


def loaded(arguments: argparse.Namespace, device: torch.device) -> tuple[PreTrainedModel, Any]:
    """The model on its device (bfloat16 on a GPU), and its tokenizer; None for random weights."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokenizer = None
    if arguments.model in SIZES:
        torch.manual_seed(0)
        config = LlamaConfig(**SIZES[arguments.model], tie_word_embeddings=True, bos_token_id=1, eos_token_id=2)
        with device:
            model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    else:
        tokenizer = load_tokenizer(arguments.model)
        model = load_language_model(arguments.model, dtype=dtype)
    if arguments.layers is not None:
        model = truncated(model, range(arguments.layers))
    return model.to(device), tokenizer


def prompt_ids(arguments: argparse.Namespace, model: PreTrainedModel, tokenizer: Any, number: int) -> list[list[int]]:
    """The data's first prompts, or random tokens, n times each."""
    if arguments.data is not None:
        examples = read_examples(arguments.data, limit=number, groups=False)
        found = [encode_prompt(tokenizer, example) for example in examples]
    else:
        draw = random.Random(0)
        special = set() if tokenizer is None else set(tokenizer.all_special_ids)
        known = range(3, model.config.vocab_size) if tokenizer is None else sorted(tokenizer.get_vocab().values())
        words = [token for token in known if token not in special]
        found = [draw.choices(words, k=arguments.prompt_tokens or draw.randint(16, 128)) for _ in range(number)]
    return [prompt for prompt in found for _ in range(arguments.n)]


def copy_rate(device: torch.device) -> float | None:
    """Bytes read and written per second by the best of ten copies of 2 GiB; None on a CPU."""
    if device.type != "cuda":
        return None
    source = torch.empty(2**31, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * 2**31 / best


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else words
    if list(words) == ["table"]:
        generation_table.write_page()
        return
    arguments = _parser().parse_args(words)
    name = arguments.device
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    result = about(arguments.date, told("benchmarks.generation", words), gpu=device.type == "cuda")
    if arguments.commit is not None:
        result["commit"] = arguments.commit
    out = arguments.out or RESULTS / f"{result['date']}-generation-{Path(arguments.model).name.lower()}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    rate = copy_rate(device)
    result["copy_gb_per_second"] = None if rate is None else round(rate / 1e9)
    model, tokenizer = loaded(arguments, device)
    stop_ids = [] if arguments.run_on or tokenizer is None else stop_token_ids(tokenizer, model.generation_config)
    rows: list[dict[str, Any]] = []
    for batch_size in arguments.batch_sizes:
        prompts = prompt_ids(arguments, model, tokenizer, arguments.prompts or max(1, batch_size // arguments.n))
        work = Work(model, prompts, arguments.max_new_tokens, arguments.top_p, stop_ids, (stop_ids or [0])[0])
        greedy: list[list[int]] | None = None
        for method in arguments.methods:
            try:
                row, answers = measured(
                    work, _case(arguments, work), method, batch_size, rate=None if stop_ids else rate, greedy=greedy
                )
                greedy = answers if method == "dynamic" else greedy
                rows.append(row)
                print(row, flush=True)
                if arguments.profile:
                    _print_kernels(work, method, batch_size)
            except (RuntimeError, MemoryError) as error:
                print(f"batch {batch_size} | {method}: {type(error).__name__}: {error}", file=sys.stderr)
            free_memory()
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            out.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _case(arguments: argparse.Namespace, work: Work) -> str:
    lengths = [len(prompt) for prompt in work.prompts]
    cut = "" if arguments.layers is None else f" cut to {arguments.layers} layers"
    weights = ", random weights" if arguments.model in SIZES else ""
    return (
        f"{Path(arguments.model).name}{cut}{weights}, {len(lengths)} prompts of {min(lengths)} to {max(lengths)} "
        f"tokens, up to {work.max_new_tokens} new, top_p {work.top_p}, {str(work.model.dtype).removeprefix('torch.')}"
    )


def _print_kernels(work: Work, method: str, batch_size: int) -> None:
    """Where 32 decode steps and their prefill spend their time."""
    gpu = work.model.device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CUDA if gpu else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, acc_events=True) as profile:
        work.once(method, batch_size, most=32)
    by = "self_device_time_total" if gpu else "self_cpu_time_total"
    print(profile.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=60))


def _timed(model: PreTrainedModel, call: Any) -> tuple[Any, float]:
    _wait(model)
    begin = time.perf_counter()
    found = call()
    _wait(model)
    return found, time.perf_counter() - begin


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "model", help=f"a model's folder, GGUF file or hub name; or {', '.join(SIZES)} (random weights)"
    )
    parser.add_argument("--layers", type=int, help="keep the first so many")
    parser.add_argument("--data", type=Path, help="JSONL of prompts")
    parser.add_argument("--prompts", type=int, help="default: batch size / n")
    parser.add_argument("--prompt-tokens", type=int, help="length of random prompts")
    parser.add_argument("--n", type=int, default=1, help="responses per prompt")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--batch-sizes", type=_numbers, default=[64, 256, 512], help="such as 64,256")
    parser.add_argument("--methods", type=_methods, default=list(METHODS), help="such as dynamic,graph")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--run-on", action="store_true", help="no stop tokens")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--date")
    parser.add_argument("--commit", help="what the code is, where there is no git")
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
