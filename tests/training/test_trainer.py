"""The Trainer: one loss however the step is split, on one scale in training and evaluation, the same after a kill."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from grkd import objectives
from grkd.data.language import Item, response_logits
from grkd.training import DistillationTrainer, LanguageRows, MetricsFile, WholeCheckpoints, last_whole_checkpoint
from grkd.training import trainer as training_module

PAD = 3


def tiny(seed: int, layers: int = 1) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=30,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.3,
            pad_token_id=PAD,
            eos_token_id=PAD,
            bos_token_id=None,
        )
    )


def ragged(count: int) -> list[Item]:
    """Responses of very different lengths: where a mean of means differs most from the mean over tokens."""
    generator = torch.Generator().manual_seed(5)
    items = []
    for number in range(count):
        prompt, response = 1 + number % 3, 1 + (number * 5) % 9
        ids = torch.randint(4, 30, (prompt + response,), generator=generator).tolist()
        items.append(Item(f"i{number}", ids[:prompt], [*ids[prompt:-1], PAD]))
    return items


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }
    return TrainingArguments(**(settings | changes))


def trainer(
    folder: Path,
    items: list[Item],
    method: str = "grkd",
    callbacks: Any = None,
    fused_head: bool | None = None,
    **changes: Any,
) -> Any:
    options = {"group": "all", "alpha_shape": "constant", "alpha_ceiling": 0.5} if method == "grkd" else {}
    return DistillationTrainer(
        tiny(1),
        arguments(folder, **changes),
        objective=objectives.load(method, **options),
        rows=LanguageRows(pad_token_id=PAD, vocabulary=30, teacher=tiny(0, layers=2)),
        train_dataset=items,
        fused_head=fused_head,
        callbacks=callbacks,
    )


def by_hand(method: str, items: list[Item]) -> torch.Tensor:
    """The mean loss over all response tokens, each item run alone and unpadded."""
    student, teacher = tiny(1).eval(), tiny(0, layers=2).eval()
    rows = LanguageRows(pad_token_id=PAD, vocabulary=30)
    student_rows, teacher_rows, labels = [], [], []
    for item in items:
        batch = rows.collate([item])
        student_rows.append(response_logits(student, batch)[0])
        teacher_rows.append(response_logits(teacher, batch)[0])
        labels.append(torch.tensor(item.response_ids))
    options = {"group": "all", "alpha_shape": "constant", "alpha_ceiling": 0.5} if method == "grkd" else {}
    batch = objectives.Batch(
        student=torch.cat(student_rows), teacher=torch.cat(teacher_rows).detach(), labels=torch.cat(labels)
    )
    return objectives.combine(objectives.load(method, **options).terms(batch))


@pytest.mark.parametrize("method", objectives.names())
@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (4, 2), (1, 8)])
def test_step_does_not_depend_on_micro_batches(tmp_path: Path, method: str, batch: int, accumulation: int) -> None:
    items = ragged(8)
    made = trainer(tmp_path, items, method, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    made.train()
    expected = by_hand(method, items)
    assert made.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)
    reference = tiny(1)
    # One SGD step of the hand-made loss from the same start.
    student = tiny(1).eval()
    options = {"group": "all", "alpha_shape": "constant", "alpha_ceiling": 0.5} if method == "grkd" else {}
    rows = LanguageRows(pad_token_id=PAD, vocabulary=30, teacher=tiny(0, layers=2).eval())
    found = rows.rows(student, rows.collate(items))
    loss = objectives.combine(
        objectives.load(method, **options).terms(
            objectives.Batch(student=found.student, teacher=found.teacher, labels=found.labels)
        )
    )
    loss.backward()
    for name, before in reference.named_parameters():
        step = made.model.get_parameter(name).detach() - before
        wanted = -0.1 * student.get_parameter(name).grad
        torch.testing.assert_close(step, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", objectives.names())
def test_evaluation_is_on_the_scale_of_training(tmp_path: Path, method: str) -> None:
    items = ragged(7)
    made = trainer(tmp_path, items, method)
    for size in (1, 3, 7):
        made.args.per_device_eval_batch_size = size
        assert made.evaluate(items)["eval_loss"] == pytest.approx(by_hand(method, items).item(), rel=1e-4)


def test_alpha_and_terms_are_logged(tmp_path: Path) -> None:
    made = trainer(tmp_path, ragged(8), max_steps=5, callbacks=[MetricsFile(tmp_path / "metrics.jsonl")])
    made.objective = objectives.load("grkd", group="all")
    made.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["alpha"] for line in lines] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    for line in lines:
        terms = line["terms"]
        mixed = line["alpha"] * terms["group_relative"] + (1 - line["alpha"]) * terms["soft_target"]
        assert line["loss_nats"] == pytest.approx(mixed, rel=1e-3)


def test_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "per_device_train_batch_size": 2,
    }

    def make(folder: Path) -> Any:
        made = trainer(
            folder, ragged(8), callbacks=[WholeCheckpoints(), MetricsFile(folder / "metrics.jsonl")], **settings
        )
        made.objective = objectives.load("grkd", group="sample", group_size=6)
        return made

    whole = make(tmp_path / "whole")
    (tmp_path / "whole").mkdir(exist_ok=True)
    whole.train()

    (tmp_path / "cut").mkdir()
    cut = make(tmp_path / "cut")
    step = cut.training_step

    def killed(*args: Any, **kwargs: Any) -> Any:
        if cut.state.global_step == 5:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    cut.training_step = killed
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    # A checkpoint cut short by the kill has no mark and is passed over.
    (tmp_path / "cut" / "checkpoint-5").mkdir()
    found = last_whole_checkpoint(tmp_path / "cut")
    assert found is not None
    assert found.name == "checkpoint-4"
    again = make(tmp_path / "cut")
    again.train(resume_from_checkpoint=str(found))
    for name, value in whole.model.named_parameters():
        torch.testing.assert_close(again.model.get_parameter(name), value, rtol=0, atol=0)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("kd", {"temperature": 2.0}),
        ("grkd", {"group": "top", "group_size": 6, "pair_target": "soft", "normalize": "candidates"}),
        ("grkd", {"group": "top", "group_size": 5, "alpha_shape": "constant", "alpha_ceiling": 1.0}),
    ],
)
def test_fused_head_makes_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, options: dict[str, Any]
) -> None:
    made, calls = {}, []
    real = training_module.distillation_head
    monkeypatch.setattr(training_module, "distillation_head", lambda **words: calls.append(1) or real(**words))
    for fused in (False, True):
        settings = {"max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        made[fused] = trainer(tmp_path / str(fused), ragged(8), fused_head=fused, **settings)
        made[fused].objective = objectives.load(method, **options)
        made[fused].train()
        assert len(calls) == (6 if fused else 0)
    for name, value in made[False].model.state_dict().items():
        torch.testing.assert_close(made[True].model.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    for plain, fused_log in zip(made[False].state.log_history[:3], made[True].state.log_history[:3], strict=True):
        assert fused_log["loss"] == pytest.approx(plain["loss"], rel=1e-4)
        terms = {key: value for key, value in fused_log.items() if key.startswith("terms/")}
        assert terms
        for key, value in terms.items():
            assert value == pytest.approx(plain[key], rel=1e-3)


def test_fused_head_is_left_where_a_method_needs_logits(tmp_path: Path) -> None:
    made = trainer(tmp_path, ragged(8), "ce", fused_head=True)
    made.train()
    assert made.state.log_history[0]["loss"] == pytest.approx(by_hand("ce", ragged(8)).item(), rel=1e-4)


_RANKS = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import torch
from test_trainer import ragged, trainer
made = trainer(Path(sys.argv[1]), ragged(8), per_device_train_batch_size=4)
made.train()
if made.is_world_process_zero():
    torch.save({"loss": made.state.log_history[0]["loss"], "weights": made.model.state_dict()}, sys.argv[1] + "/out.pt")
"""


@pytest.mark.slow
def test_two_ranks_make_the_same_step(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(_RANKS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launch, str(script), str(tmp_path), str(Path(__file__).parent)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    alone = trainer(tmp_path, ragged(8))
    alone.train()
    assert found["loss"] == pytest.approx(alone.state.log_history[0]["loss"], rel=1e-4)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(found["weights"][name], value, rtol=1e-3, atol=1e-6)
