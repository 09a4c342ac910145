"""Training under left padding: attention's backward pass stays finite at every length."""

import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from grkd import objectives
from grkd.data.language import Item
from grkd.training import DistillationTrainer, FiniteSteps, LanguageRows

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize("length", [128, 177, 192, 256])
def test_gradients_are_finite(tmp_path: Path, length: int) -> None:
    """cuDNN's attention gave NaN at multiples of 64, where the first queries of a row see padding alone."""
    torch.manual_seed(0)
    student = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=500,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,  # of 64, as most models have
            num_key_value_heads=2,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=2,
        )
    )
    answer = 16
    items = [
        Item(f"i{number}", torch.randint(3, 500, (prompt,)).tolist(), torch.randint(3, 500, (answer,)).tolist())
        for number, prompt in enumerate([length - answer, *range(8, 8 + 4 * 15, 4)])
    ]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=len(items),
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=True,
    )
    made = DistillationTrainer(
        student,
        arguments,
        objective=objectives.load("ce"),
        rows=LanguageRows(pad_token_id=2, vocabulary=500),
        train_dataset=items,
        callbacks=[FiniteSteps()],
    )
    made.train()
    assert all(math.isfinite(line["grad_norm"]) for line in made.state.log_history if "grad_norm" in line)
    assert all(bool(weight.isfinite().all()) for weight in student.parameters())
