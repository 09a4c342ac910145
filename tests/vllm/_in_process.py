"""Run by test_in_process.py with the Python that has vLLM: prints what is compared as JSON on its last line."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grkd import GRKDConfig, GRKDTrainer
from grkd.models.generate import generate_responses
from grkd.training.groups_file import read_groups_files
from grkd.training.vllm_sampler import VllmSampler

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13], [20, 21]]
VOCABULARY, STOP = 60, 2  # the head has 64


def student() -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    ends = {"bos_token_id": None, "eos_token_id": STOP, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends, tie_word_embeddings=True, initializer_range=0.3))


def own_greedy(model: Any) -> list[list[int]]:
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.0, "top_p": 1.0, "stop_ids": [STOP], "seed": 0}
    parts = generate_responses(model, PROMPTS, pad_token_id=0, vocabulary=VOCABULARY, **options)
    return [
        each.response_ids for each in sorted((each for part in parts for each in part), key=lambda each: each.index)
    ]


def compared() -> dict[str, Any]:
    """Greedy and drawn answers before and after the weights change, beside the student's own."""
    model = student().eval()
    sampler = VllmSampler(max_new_tokens=8, stop_ids=[STOP], vocabulary=VOCABULARY, longest=64, temperature=0.0)
    greedy = []
    for _ in range(2):
        greedy.append({"vllm": [ids for ids, _ in sampler(model, PROMPTS, 0.0, [1, 2, 3])], "own": own_greedy(model)})
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    sampler.temperature = 1.0
    drawn = sampler(model, PROMPTS, 0.0, [2**62 + 1, 5, 6])
    differences = []
    for prompt, (ids, log_probs) in zip(PROMPTS, drawn, strict=True):
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1, :VOCABULARY]
        known = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
        differences.append(float((known - torch.tensor(log_probs)).abs().max()))
    again = sampler(model, PROMPTS, 0.0, [2**62 + 1, 5, 6])
    return {"greedy": greedy, "difference": max(differences), "repeated": drawn == again}


def trained(folder: str) -> dict[str, Any]:
    """A GRKDTrainer whose groups vLLM samples: the scores before each step are those of the weights that sampled."""
    words = {"<pad>": 0, "<end>": STOP} | {f"w{number}": number for number in range(3, 64)} | {"<one>": 1}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), eos_token="<end>", pad_token="<pad>"
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = student()
    args = GRKDConfig(
        folder, method="grpo", use_vllm=True, num_generations=4, max_new_tokens=6, max_steps=2, max_length=32,
        use_cpu=True, report_to="none", disable_tqdm=True, learning_rate=1e-2, per_device_train_batch_size=2,
    )  # fmt: skip
    records = [{"prompt": f"w{number} w{number + 1}"} for number in range(5, 13)]
    trainer = GRKDTrainer(
        model, None, args, train_dataset=records, processing_class=tokenizer,
        rankers=[lambda prompts, completions, **columns: [float(text.count("w1")) for text in completions]],
    )  # fmt: skip
    before = model.state_dict()["lm_head.weight"].clone()
    trainer.train()
    lines = read_groups_files(Path(folder) / "groups")
    moved = float((model.state_dict()["lm_head.weight"] - before).abs().max())
    return {"steps": sorted({line["step"] for line in lines}), "groups": len(lines), "moved": moved}


print(json.dumps({**compared(), **trained(sys.argv[1])}))
