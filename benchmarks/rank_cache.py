"""How fast a cache of ranks is read, beside a training step that needs it, and how many bytes it takes.

    python -m benchmarks.rank_cache [--vocabulary 49152] [--layers 12] [--hidden 576] [--responses 256] [--tokens 64]
        [--device cpu] [--date YYYY-MM-DD] [--out FILE]

Random records of 16 candidates with log-probabilities, written as shards and read response by response in random
order. Rows: impl, tokens_per_second. read: records from the memory-mapped shards. decode: records to candidates.
read, sample and decode, sample: the same of records that hold a sample of 2 to 30 entries, 16 on average.
step: forward, loss (kd) and backward of a student with random weights on the same number of tokens, records given.
read_and_decode_over_step and sample_over_step say how many times faster than the step reading and decoding together
are. bytes_per_token, bytes_per_token_sample: of the records, the mean.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks._measure import about
from grkd import objectives
from grkd.objectives import combine
from grkd.teacher.rank_codec import RankCodec, joined
from grkd.teacher.row_shards import RowShards
from grkd.teacher.token_candidates import Candidates
from grkd.training.cached_ranks import cached_batch

_PER_SHARD = 64


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("vocabulary", 49_152), ("layers", 12), ("hidden", 576), ("responses", 256), ("tokens", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--date")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    codec = RankCodec(vocabulary=options.vocabulary, log_probs=True)
    drawn = RankCodec(vocabulary=options.vocabulary, choose="sample", log_probs=True, share=0.02)
    rates, stored = _rates_of(codec, "", options, device)
    drawn_rates, drawn_stored = _rates_of(drawn, ", sample", options, device)
    rates |= drawn_rates
    rates["step"] = _step_rate(codec, options, device)
    over_step = {
        name: round(1 / (1 / rates[f"read{kind}"] + 1 / rates[f"decode{kind}"]) / rates["step"], 1)
        for name, kind in (("read_and_decode_over_step", ""), ("sample_over_step", ", sample"))
    }
    command = f"python -m benchmarks.rank_cache {' '.join(arguments or sys.argv[1:])}"
    model = f"{options.layers} layers of {options.hidden}, vocabulary {options.vocabulary}"
    result = {
        **about(options.date, command.strip(), gpu=device.type == "cuda"),
        "case": f"{model}, responses of {options.tokens} tokens, float32",
        "rows": [{"impl": name, "tokens_per_second": round(rate)} for name, rate in rates.items()],
        **over_step,
        "bytes_per_token": round(stored),
        "bytes_per_token_sample": round(drawn_stored, 1),
        "threads": torch.get_num_threads(),
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


def _rates_of(
    codec: RankCodec, kind: str, options: argparse.Namespace, device: torch.device
) -> tuple[dict[str, float], float]:
    """Tokens per second that are read and decoded, and bytes per token."""
    with tempfile.TemporaryDirectory() as folder:
        shards = _written(Path(folder), codec, options.responses, options.tokens)
        names = random.Random(0).sample(sorted(shards), len(shards))
        tokens = len(names) * options.tokens
        read = _rate(tokens, lambda: _read(shards, names, codec), device)
        records = _read(shards, names, codec).to(device)
        decode = _rate(tokens, lambda: codec.decode(records), device)
        return {f"read{kind}": read, f"decode{kind}": decode}, sum(shards[name].numel() for name in names) / tokens


def _written(folder: Path, codec: RankCodec, responses: int, tokens: int) -> RowShards:
    """Records of random candidates, in shards."""
    shards = RowShards(folder, name="ranks", dtype=torch.uint8, cure="")
    draws = torch.Generator().manual_seed(0)
    for start in range(0, responses, _PER_SHARD):
        names = [f"{number:06d}" for number in range(start, min(start + _PER_SHARD, responses))]
        rows = codec.encode(_random(codec, len(names) * tokens, draws)).split(tokens)
        shards.write_shard({name: codec.pack(own) for name, own in zip(names, rows, strict=True)})
    return shards


def _read(shards: RowShards, names: list[str], codec: RankCodec) -> torch.Tensor:
    """Records of responses, one after the other."""
    return joined([codec.unpack(shards[name]) for name in names])


def _random(codec: RankCodec, rows: int, draws: torch.Generator) -> Candidates:
    ids = torch.rand(rows, codec.largest, generator=draws).mul(codec.vocabulary).long()
    counts = torch.randint(2, 2 * codec.entries - 1, (rows,), generator=draws)
    return Candidates(
        ids=ids,
        tied=torch.zeros(rows, codec.largest - 1, dtype=torch.bool),
        log_weights=-8 * torch.rand(rows, codec.largest, generator=draws),
        log_tail=-8 * torch.rand(rows, generator=draws),
        counts=None if codec.share is None else counts,
        certain=counts // 3,
    )


def _step_rate(codec: RankCodec, options: Any, device: torch.device) -> float:
    given = _random(codec, 8 * options.tokens, torch.Generator().manual_seed(1))
    records = codec.encode(given).to(device)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 8 // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.hidden // 64),
        num_key_value_heads=max(1, options.hidden // 64),
    )
    student, kd = LlamaForCausalLM(config).to(device), objectives.load("kd", temperature=1.0)
    ids = torch.randint(options.vocabulary, (len(records) // options.tokens, options.tokens), device=device)

    def step() -> None:
        logits = student(ids).logits.flatten(0, 1)
        combine(kd.terms(cached_batch(logits, records, codec, temperature=1.0))).backward()

    return _rate(len(records), step, device)


def _rate(tokens: int, work: Callable[[], Any], device: torch.device) -> float:
    """Tokens per second of the second call."""
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return tokens / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
