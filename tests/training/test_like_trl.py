"""The same records through TRL's trainers and ours, from conversations to weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from grkd import GRKDConfig, GRKDTrainer, from_trl
from tests.conftest import word_tokenizer

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")
ANSWERS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9", "w1 w1", "w2 w9 w4 w3", "w8 w8 w8", "w5", "w7 w6"]


def record(number: int, **more: str) -> dict[str, Any]:
    turns = {name: [{"role": "assistant", "content": text}] for name, text in more.items()}
    return {"prompt": [{"role": "user", "content": f"w{number} w{2 * number}"}], **turns}


PAIRS = [record(at, chosen=text, rejected=ANSWERS[at - 3]) for at, text in enumerate(ANSWERS)]
COMPLETIONS = [record(at, completion=text) for at, text in enumerate(ANSWERS)]
MESSAGES = [{"messages": each["prompt"] + each["completion"]} for each in COMPLETIONS]


SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2.0,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "max_length": None,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


def theirs_and_ours(
    method: str, start: PreTrainedModel, teacher: PreTrainedModel, folder: Path
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The student as TRL's trainer leaves it, and as ours does."""
    theirs, ours = copy.deepcopy(start), copy.deepcopy(start)
    records, more, model = COMPLETIONS, {}, None
    if method == "sft":
        config = trl.SFTConfig(str(folder / "trl"), **SETTINGS)
        trainer = trl.SFTTrainer
        arguments = GRKDConfig(str(folder / "grkd"), method="sft", **SETTINGS)
    elif method == "dpo":
        config, trainer = trl.DPOConfig(str(folder), beta=0.2, **SETTINGS), trl.DPOTrainer
        records, more, arguments = PAIRS, {"ref_model": copy.deepcopy(start)}, from_trl(config)
    else:
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        config, trainer = GKDConfig(str(folder), lmbda=0.0, beta=0.3, **SETTINGS), GKDTrainer
        records, more, arguments = MESSAGES, {"teacher_model": copy.deepcopy(teacher)}, from_trl(config)
        model = teacher
    data, tokenizer = datasets.Dataset.from_list(records), word_tokenizer()
    trainer(theirs, args=config, train_dataset=data, processing_class=tokenizer, **more).train()
    sides = {"processing_class": tokenizer, "teacher_processing_class": tokenizer}
    GRKDTrainer(ours, model, arguments, train_dataset=records, **sides).train()
    return theirs, ours


@pytest.mark.parametrize("method", ["sft", "dpo", "gkd"])
def test_weights_after_two_epochs_are_trls(
    method: str, tmp_path: Path, tiny_teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_teacher).double()
    teacher = copy.deepcopy(start)
    for weight in teacher.parameters():
        weight.data *= 1.1
    theirs, ours = theirs_and_ours(method, start, teacher, tmp_path)
    for one, other, before in zip(theirs.parameters(), ours.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        assert (one - before).abs().max() > 1e-3
    capsys.readouterr()  # losses
