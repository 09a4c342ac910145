"""What trackers draw beside the loss: alpha, and how the student orders candidates and responses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd.metrics.rank import rank_fidelity
from grkd.models.cut import truncated
from grkd.objectives import Batch
from grkd.training import GRKDConfig, GRKDTrainer
from grkd.training.order_in_training import OrderInTraining
from grkd.training.rows import Forward
from tests.conftest import word_tokenizer


def seen(forward: Forward) -> dict[str, float]:
    made = OrderInTraining()
    made.see(forward)
    found = made.logged()
    assert made.logged() == {}
    return found


def test_rows_are_measured_as_everywhere_else() -> None:
    drawn = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(200, 30, generator=drawn) for _ in range(2))
    expected = rank_fidelity(student[1:129], teacher[1:129], top_k=16)
    mask = torch.ones(200, 30, dtype=torch.bool)
    mask[0] = False  # a row that does not count
    found = seen(Forward(batches={"row": Batch(student=student, teacher=teacher, mask=mask)}))
    assert found == {
        f"order/{name}": pytest.approx(float(expected[name].mean()), abs=1e-6)
        for name in ("kendall_tau", "pair_accuracy")
    }


def test_hidden_states_say_the_same_as_logits() -> None:
    drawn = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(2, 20, 8, generator=drawn), torch.randn(2, 34, 8, generator=drawn)
    bias = torch.randn(2, 34, generator=drawn)
    logits = [20.0 * torch.tanh((hidden[side] @ weight[side].T + bias[side]) / 20.0)[:, :30] for side in (0, 1)]
    inputs: dict[str, Any] = {"vocabulary": 30}
    for side, name in enumerate(("student", "teacher")):
        inputs |= {f"{name}_hidden": hidden[side], f"{name}_weight": weight[side], f"{name}_bias": bias[side]}
        inputs[f"{name}_softcap"] = 20.0
    of_logits = seen(Forward(batches={"row": Batch(student=logits[0], teacher=logits[1])}))
    assert seen(Forward(head_inputs=inputs)) == pytest.approx(of_logits, abs=1e-5)


def test_responses_without_a_score_are_in_no_pair() -> None:
    student = torch.tensor([[1.0, 2.0, 9.0], [3.0, 1.0, 2.0]])
    teacher = torch.tensor([[1.0, 2.0, torch.nan], [1.0, 3.0, 2.0]])
    found = seen(Forward(batches={"response": Batch(student=student, teacher=teacher, level="response")}))
    # The first prompt's one pair is right; all three of the second's are wrong.
    assert found == {"order/response_kendall_tau": 0.0, "order/response_pair_accuracy": 0.5}


def test_nothing_to_compare_gives_nothing() -> None:
    assert seen(Forward(batches={"row": Batch(student=torch.zeros(2, 3))})) == {}


@pytest.mark.parametrize("fused", [False, True])
def test_a_tracker_gets_them(fused: bool, tiny_teacher: Path, tmp_path: Path) -> None:
    teacher = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    args = GRKDConfig(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True, logging_steps=1.0, fused_head=fused, report_files=False,
    )  # fmt: skip
    records = [{"prompt": f"w{n}", "completion": f"w{n + 1} w2"} for n in range(8)]
    trainer = GRKDTrainer(
        truncated(teacher, [0, 2]), teacher, args, train_dataset=records, processing_class=word_tokenizer()
    )
    trainer.args.report_to = ["a tracker"]
    trainer.train()
    logged = [line for line in trainer.state.log_history if "loss" in line]
    assert len(logged) == 2
    for line in logged:
        assert -1 <= line["order/kendall_tau"] <= 1
        assert 0 <= line["order/pair_accuracy"] <= 1
        assert 0 <= line["alpha"] <= 1
