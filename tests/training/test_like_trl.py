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


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_weights_after_two_epochs_are_trls(
    method: str, tmp_path: Path, tiny_teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {
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
    start: PreTrainedModel = AutoModelForCausalLM.from_pretrained(tiny_teacher).double()
    theirs, ours = copy.deepcopy(start), copy.deepcopy(start)
    if method == "sft":
        config = trl.SFTConfig(str(tmp_path / "trl"), **settings)
        arguments = GRKDConfig(str(tmp_path / "grkd"), method="sft", **settings)
        trainer = trl.SFTTrainer(
            theirs,
            args=config,
            train_dataset=datasets.Dataset.from_list(COMPLETIONS),
            processing_class=word_tokenizer(),
        )
    else:
        config = trl.DPOConfig(str(tmp_path / "trl"), beta=0.2, **settings)
        arguments = from_trl(trl.DPOConfig(str(tmp_path / "grkd"), beta=0.2, **settings))
        trainer = trl.DPOTrainer(
            theirs,
            ref_model=copy.deepcopy(start),
            args=config,
            train_dataset=datasets.Dataset.from_list(PAIRS),
            processing_class=word_tokenizer(),
        )
    trainer.train()
    records = COMPLETIONS if method == "sft" else PAIRS
    GRKDTrainer(ours, args=arguments, train_dataset=records, processing_class=word_tokenizer()).train()
    for one, other, before in zip(theirs.parameters(), ours.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        assert (one - before).abs().max() > 1e-3
    capsys.readouterr()  # losses
