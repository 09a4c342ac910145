"""A language model distilled in one flat loop: no Trainer, no recipe, everything in sight.

python examples/distil_a_language_model.py TEACHER STUDENT PROMPTS.jsonl OUTPUT

TEACHER and STUDENT are Hugging Face folders or hub names with one vocabulary. PROMPTS.jsonl has a {"prompt": ...,
"completion": ...} per line. The student learns the teacher's distribution at every token of the completions.
`grkd run` does the same with resume, evaluation and a report.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

from grkd import GRKDLoss
from grkd.losses import forward_kl
from grkd.metrics.rank import kendall_tau_b

IGNORED = -100


def encoded(tokenizer, record: dict, limit: int) -> tuple[list[int], list[int]]:
    """Token ids of prompt and completion, and labels that leave the prompt out."""
    turns = [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": record["completion"]}]
    whole = tokenizer.apply_chat_template(turns, return_dict=False)
    prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    assert whole[: len(prompt)] == prompt, "this template rewrites the prompt once the answer is there"
    return whole[:limit], [IGNORED] * min(len(prompt), limit) + whole[len(prompt) : limit]


def batches(examples: list[tuple[list[int], list[int]]], size: int, pad: int, seed: int):
    """Batches in a new order, padded on the right to their own longest example."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(order), size):
        chosen = [examples[place] for place in order[start : start + size]]
        width = max(len(ids) for ids, _ in chosen)
        yield {
            "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in chosen]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in chosen]),
            "labels": torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in chosen]),
        }


def scores(model, batch: dict) -> torch.Tensor:
    """Logits [tokens, vocabulary] that predict the tokens of the completions, and nothing else."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, :-1][batch["labels"][:, 1:] != IGNORED].float()


@torch.no_grad()
def measured(student, teacher, examples: list, size: int, pad: int) -> dict[str, float]:
    """Forward KL in nats and Kendall's tau over the teacher's 16 best tokens, means over the tokens."""
    student.eval()
    found: dict[str, list[torch.Tensor]] = {"forward_kl_nats": [], "kendall_tau": []}
    for batch in batches(examples, size, pad, seed=0):
        own, others = scores(student, batch), scores(teacher, batch)
        top = others.topk(min(16, others.shape[-1])).indices
        found["forward_kl_nats"].append(forward_kl(own, others))
        found["kendall_tau"].append(kendall_tau_b(own.gather(-1, top), others.gather(-1, top)))
    student.train()
    return {name: float(torch.cat(values).mean()) for name, values in found.items()}


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Returns the held-out measures before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("student")
    parser.add_argument("prompts", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--preset", default="tokens", help="of grkd: paper or tokens")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_default_device(device)
    tokenizer = AutoTokenizer.from_pretrained(options.student)
    teacher = AutoModelForCausalLM.from_pretrained(options.teacher).to(device).eval().requires_grad_(False)
    student = AutoModelForCausalLM.from_pretrained(options.student).to(device).train()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    records = [json.loads(line) for line in options.prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    examples = [encoded(tokenizer, record, options.max_length) for record in records]
    examples = [example for example in examples if any(label != IGNORED for label in example[1])]
    heldout, train = examples[: max(1, len(examples) // 10)], examples[max(1, len(examples) // 10) :]

    steps = options.epochs * -(-len(train) // options.batch_size)
    optimizer = torch.optim.AdamW(student.parameters(), lr=options.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    criterion = GRKDLoss(preset=options.preset, seed=0)

    before = measured(student, teacher, heldout, options.batch_size, pad)
    print(f"before: {before}")
    step = 0
    for epoch in range(options.epochs):
        for batch in batches(train, options.batch_size, pad, seed=epoch):
            with torch.no_grad():
                teacher_scores = scores(teacher, batch)
            loss = criterion(scores(student, batch), teacher_scores, progress=step / max(1, steps - 1))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step % 10 == 0:
                print(f"step {step} of {steps}: loss {loss.item():.3f} nats")
            step += 1
    after = measured(student, teacher, heldout, options.batch_size, pad)
    print(f"after: {after}")
    student.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    return {"before": before, "after": after}


if __name__ == "__main__":
    main()
