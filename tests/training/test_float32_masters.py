"""Float32 masters: steps are those of float32 weights, small ones add up, and a resumed training is the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from grkd import objectives, recipe
from grkd.errors import UserError
from grkd.recipe import Training
from grkd.run.training import train
from grkd.training import LanguageRows, float32_masters
from grkd.training.float32_masters import Float32Masters
from tests.training.test_trainer import ragged, tiny, trainer

SETTINGS: dict[str, Any] = {
    "optim": "adamw_torch",
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
}


def test_steps_are_those_of_float32_weights_on_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: AdamW on float32 copies, weights rounded after each step. One parameter is in float32 by itself."""
    monkeypatch.setattr(float32_masters, "_CHUNK", 7)  # parameters in several chunks
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(n, 3).bfloat16()) for n in (1, 2, 4)] + [nn.Parameter(torch.randn(5))]
    plain = [nn.Parameter(each.detach().float()) for each in weights]
    options: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.1}
    made, expected = Float32Masters(torch.optim.AdamW(weights, **options)), torch.optim.AdamW(plain, **options)
    for step in range(20):
        for own, other in zip(weights, plain, strict=True):
            own.grad = torch.randn_like(own) if (step + own.numel()) % 4 else None  # one without a gradient at times
            other.grad = None if own.grad is None else own.grad.float()
        made.param_groups[0]["lr"] = expected.param_groups[0]["lr"] = 1e-3 / (1 + step)
        made.step()
        expected.step()
        for own, other in zip(weights, plain, strict=True):
            assert torch.equal(own, other.to(own.dtype))
    assert torch.equal(made.state_dict()["float32_masters"][1], plain[1])
    made.zero_grad()
    assert all(each.grad is None for each in weights)


def test_steps_below_16_bits_add_up() -> None:
    """A hundred steps of 1e-4 from 1, where bfloat16 has 2^-8 between two numbers below."""
    moved = {}
    for masters in (True, False):
        weight = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
        optimizer: torch.optim.Optimizer = torch.optim.SGD([weight], lr=1e-4)
        optimizer = Float32Masters(optimizer) if masters else optimizer
        for _ in range(100):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        moved[masters] = weight[0].item()
    assert moved == {True: pytest.approx(0.99, abs=2**-9), False: 1.0}


def test_a_training_and_its_resumption(tmp_path: Path) -> None:
    """Under accelerate with clipping, accumulation and a schedule; resumed to the bit; nearer to float32 than bf16."""

    def trained(name: str, dtype: torch.dtype, *, masters: bool, steps: int = 6, **more: Any) -> Any:
        changes = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, **SETTINGS, **more}
        made = trainer(tmp_path / name, ragged(8), **changes)
        made.model.to(dtype)
        made.float32_masters = masters
        made.train(str(tmp_path / name / f"checkpoint-{steps}") if steps < 6 else None)
        return made

    whole = trained("masters", torch.bfloat16, masters=True)
    wide, narrow = trained("wide", torch.float32, masters=False), trained("narrow", torch.bfloat16, masters=False)
    start = torch.cat([each.flatten() for each in tiny(1).parameters()])

    def path(made: Any) -> torch.Tensor:
        return torch.cat([each.detach().float().flatten() for each in made.model.parameters()]) - start

    off = {name: (path(made) - path(wide)).norm() for name, made in (("masters", whole), ("narrow", narrow))}
    assert off["masters"] < off["narrow"]
    resumed = trained("masters", torch.bfloat16, masters=True, steps=3)
    assert resumed.state.global_step == 6
    for (own, master), (other, saved) in zip(
        whole.optimizer.optimizer._pairs, resumed.optimizer.optimizer._pairs, strict=True
    ):
        assert torch.equal(own, other)
        assert torch.equal(master, saved)
        assert torch.equal(own, master.to(torch.bfloat16))
    with pytest.raises(UserError, match="no float32 copies"):
        trained("narrow", torch.bfloat16, masters=True, steps=3)


def test_the_recipes_setting_reaches_the_trainer(tmp_path: Path) -> None:
    options = {
        "dataset": ragged(4),
        "objective": objectives.load("ce"),
        "rows": LanguageRows(pad_token_id=0, vocabulary=50),
        "training": Training(float32_masters=True, steps=1, batch_size=2),
        "seed": 0,
        "where": torch.device("cpu"),
        "bf16": False,
        "description": "copies",
    }
    with pytest.raises(UserError, match="weights are in float32 already"):  # so it was asked to make copies
        train(tiny(1), folder=tmp_path, **options)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in float32 already"):
        Float32Masters(torch.optim.SGD(tiny(0).parameters(), lr=0.1))
    base = "task: language_model\noutput: run\nteacher: {model: a/b}\nstudent: {model: c/d%s}\ndata: {train: x.jsonl}\n"
    base += "methods: [kd]\ntraining: {float32_masters: true}\n"
    for student, words in ((", dtype: bfloat16, lora: {}", "LoRA"), ("", "student.dtype: bfloat16")):
        path = tmp_path / "recipe.yaml"
        path.write_text(base % student)
        with pytest.raises(UserError, match=words):
            recipe.read(path)
