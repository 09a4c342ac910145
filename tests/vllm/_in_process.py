"""Run by test_in_process.py with the Python that has vLLM: prints what is compared as JSON on its last line.

python tests/vllm/_in_process.py compared | trained FOLDER
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grkd import GRKDConfig, GRKDTrainer
from grkd.data.language import unwrapped
from grkd.models.generate import generate_responses
from grkd.ranks import ranks, wait
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
    return {"greedy": greedy, "difference": max(differences), "repeated": drawn == again, "adapted": adapted(sampler)}


def adapted(sampler: VllmSampler) -> dict[str, Any]:
    """Greedy answers under LoRA of the layers that vLLM packs into one, and of the head, which was tied."""
    model = get_peft_model(
        student(), LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj", "lm_head"], init_lora_weights=False)
    ).eval()
    base = model.get_base_model()
    sampler.temperature = 0.0
    found = [ids for ids, _ in sampler(model, PROMPTS, 0.0, [1, 2, 3])]
    with model.disable_adapter():
        plain = own_greedy(base)
    return {"vllm": found, "own": own_greedy(base), "plain": plain}


def trained(folder: str) -> dict[str, Any]:
    """A GRKDTrainer whose groups vLLM samples, in as many processes as were launched, LoRA among several."""
    words = {"<pad>": 0, "<end>": STOP} | {f"w{number}": number for number in range(3, 64)} | {"<one>": 1}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), eos_token="<end>", pad_token="<pad>"
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    args = GRKDConfig(
        folder, method="grpo", use_vllm=True, num_generations=4, max_new_tokens=6, max_steps=3, max_length=32,
        use_cpu=True, report_to="none", disable_tqdm=True, learning_rate=1e-2, logging_steps=1.0,
        per_device_train_batch_size=2 // ranks().num_processes,
    )  # fmt: skip
    torch.manual_seed(1)  # of the adapters
    trainer = GRKDTrainer(
        student(), None, args, train_dataset=[{"prompt": f"w{number} w{number + 1}"} for number in range(5, 13)],
        eval_dataset=[{"prompt": "w5"}], processing_class=tokenizer,
        rankers=[lambda prompts, completions, **columns: [float(text.count("w1")) for text in completions]],
        peft_config=LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    )  # fmt: skip
    start = [value.detach().clone() for value in trainer.model.parameters() if value.requires_grad]
    trainer.train()
    wait("train")
    lines = sorted(read_groups_files(Path(folder) / "groups"), key=lambda line: (line["step"], line["id"]))
    now = [value.detach() for value in unwrapped(trainer.model).parameters() if value.requires_grad]
    return {
        "groups": [[line["step"], line["id"], line["responses"]] for line in lines],
        "moved": float(sum((value - old).abs().sum() for value, old in zip(now, start, strict=True))),
    }


found = compared() if sys.argv[1] == "compared" else trained(sys.argv[2])
if ranks().is_main_process:
    print(json.dumps(found))
