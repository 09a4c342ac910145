"""Attention of trainings: its backward pass stays finite at every length; prompts are shared in packed rows."""

import math
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from grkd import objectives
from grkd.data.language import Group, Item
from grkd.training import DistillationTrainer, FiniteSteps, LanguageRows
from grkd.training.fresh_groups import moved

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


@pytest.mark.parametrize("heads", [{}, {"num_key_value_heads": 1}], ids=["each", "shared heads"])
def test_prompts_shared_in_a_packed_row(heads: dict[str, int]) -> None:
    """Log-probabilities and gradients of responses are those of rows with all copies, up to 16 bits."""
    torch.manual_seed(0)
    student = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=500, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
            bos_token_id=None, eos_token_id=2, pad_token_id=2, **heads,
        )
    ).to("cuda", torch.bfloat16)  # fmt: skip
    items = [
        Item(f"{group}-{number}", list(range(3, 40 + 100 * group)), torch.randint(3, 500, (20 + 9 * number,)).tolist())
        for group in range(2)
        for number in range(4)
    ]
    groups = [
        Group(
            id=str(at), items=tuple(items[at : at + 4]), teacher_scores=(0.0, 1.0, 2.0, 3.0), sources=("student",) * 4
        )
        for at in (0, 4)
    ]
    found = {}
    for shared in (True, False):
        rows = LanguageRows(pad_token_id=2, vocabulary=500, tokens_per_batch=100_000, share_prompts=shared)
        rows.to(torch.device("cuda"), student=student)
        assert rows.shares_prompts is shared
        batch = moved(rows.collate(groups), torch.device("cuda"))
        student.zero_grad()
        values = rows.forward(student, batch, levels=("response",)).batches["response"].student
        (values * torch.linspace(-1, 1, 8, device="cuda").view_as(values)).sum().backward()
        assert all(bool(weight.grad.isfinite().all()) for weight in student.parameters() if weight.grad is not None)
        gradients = [weight.grad.float().flatten() for weight in student.parameters() if weight.grad is not None]
        found[shared] = (batch["input_ids"].numel(), values.detach().float(), torch.cat(gradients))
    assert found[True][0] < found[False][0]
    torch.testing.assert_close(found[True][1], found[False][1], rtol=2e-2, atol=2e-2)
    assert torch.nn.functional.cosine_similarity(found[True][2], found[False][2], dim=0) > 0.99
