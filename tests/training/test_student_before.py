"""The student before training, with which dpo compares, stays what it was where adapters train the base's biases."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from grkd.errors import UserError
from grkd.models.adapters import trains_biases
from grkd.training import GRKDConfig, GRKDTrainer
from grkd.training.before_training import StudentBefore
from tests.conftest import word_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft asks by the old name
    pytest.mark.filterwarnings("ignore:Careful, disabling adapter layers"),
]
PAIRS = [{"prompt": f"w{n} w{n + 1}", "chosen": f"w{n + 2}", "rejected": f"w{n + 3} w{n}"} for n in range(4)]


def trainer(folder: Path, bias: str) -> GRKDTrainer:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=40, **sizes, attention_bias=True, eos_token_id=3, pad_token_id=0)
    options: dict[str, Any] = {"max_steps": 3, "learning_rate": 0.5, "report_to": [], "use_cpu": True}
    return GRKDTrainer(
        LlamaForCausalLM(config),
        args=GRKDConfig(str(folder), method="dpo", save_strategy="no", disable_tqdm=True, report_prompts=0, **options),
        train_dataset=PAIRS,
        processing_class=word_tokenizer(),
        peft_config=peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", bias=bias),
    )


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_a_reference_is_the_one_before_training(bias: str, tmp_path: Path) -> None:
    made = trainer(tmp_path, bias)
    assert trains_biases(made.model) == (bias != "none")
    before = StudentBefore(made.model, pad_token_id=0, vocabulary=40, adapters=True)
    batch = made.rows.collate(list(made.train_dataset))
    first = before(batch)
    made.train()
    torch.testing.assert_close(before(batch), first, rtol=0, atol=1e-6)


def test_records_that_come_later_have_no_reference_under_trained_biases(tmp_path: Path) -> None:
    made = trainer(tmp_path, "all")
    made.train()
    with pytest.raises(UserError, match="compares with the student before training, which is gone"):
        made.evaluate(PAIRS[:2])
    plain = trainer(tmp_path, "none")
    plain.train()
    assert plain.evaluate(PAIRS[:2])["eval_loss"] > 0


@pytest.mark.parametrize("bias", ["none", "all"])
def test_a_teacher_under_the_adapter_is_said_to_have_its_biases(
    bias: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = trainer(tmp_path, bias).model
    options: dict[str, Any] = {"processing_class": word_tokenizer(), "teacher_processing_class": word_tokenizer()}
    args = GRKDConfig(str(tmp_path), method="kd", report_to=[], use_cpu=True)
    GRKDTrainer(student, student.get_base_model(), args, train_dataset=PAIRS, **options)
    said = " ".join(capsys.readouterr().err.split())
    assert "a frozen copy of it teaches" in said
    assert ("teaches, with the biases that the student's adapter has trained" in said) == (bias == "all")
