"""Compiled layers: the same steps, a warm-up that leaves no trace, and the way back where compiling fails."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from grkd.errors import UserError
from grkd.training.compiled_layers import CompiledLayers, decoder_layers, training_flops
from tests.training.test_trainer import ragged, tiny, trainer

NEW = {field.name for field in dataclasses.fields(TrainingArguments)} & {"activation_checkpointing"}
RECOMPUTE = next(iter(NEW), "gradient_checkpointing")
# Of PyTorch's compiler, about its own tensors.
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*attribute of a Tensor that is not a leaf:UserWarning")


def learnt(folder: Path, monkeypatch: pytest.MonkeyPatch | None, backend: Any = "aot_eager", **options: Any) -> Any:
    made = trainer(folder, ragged(8), "grkd", max_steps=2, per_device_train_batch_size=4, **options)
    if monkeypatch is not None:
        teacher = made.rows.teacher
        made._compiled = CompiledLayers([made.model, teacher], wanted=True, device=made.args.device, backend=backend)
        made._begun = False
    torch.manual_seed(3)
    made.train()
    return made


def noted(made: Any) -> list[float]:
    name = "terms/group_relative"
    return [line[name] for line in made.state.log_history if name in line]


@pytest.mark.parametrize("recompute", [False, True])
def test_compiled_steps_are_plain_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recompute: bool) -> None:
    options = {RECOMPUTE: recompute} if recompute else {}
    plain, compiled = learnt(tmp_path, None), learnt(tmp_path, monkeypatch, **options)
    assert compiled._compiled.on
    for key, value in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[key], value, rtol=1e-5, atol=1e-6)
    assert noted(compiled) == pytest.approx(noted(plain), rel=1e-5)  # the warm-up is not counted in


def test_what_cannot_be_compiled_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def failing(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler")

    plain, fallen = learnt(tmp_path, None), learnt(tmp_path, monkeypatch, backend=failing)
    assert not fallen._compiled.on
    assert "compile: compilation failed" in " ".join(capsys.readouterr().err.split())
    for key, value in plain.model.state_dict().items():
        torch.testing.assert_close(fallen.model.state_dict()[key], value, rtol=0, atol=0)


def test_a_sharded_student_does_not_go_on_after_a_failure() -> None:
    """The pass that failed has left FSDP2's layers half gathered."""
    layers = CompiledLayers([tiny(0)], wanted=True, device=torch.device("cpu"), sharded=True, backend="eager")

    def fails() -> None:
        raise RuntimeError("no compiler")

    with pytest.raises(UserError, match=r"compilation failed \(no compiler\).*set compile to false"):
        layers.begin(0.0, fails)


def test_compiling_by_itself_only_where_it_pays(tmp_path: Path) -> None:
    """On a GPU, in a training of hours; never on a CPU, never for minutes."""
    student, teacher = tiny(0), tiny(1, layers=2)
    assert (len(decoder_layers(student)), len(decoder_layers(teacher))) == (1, 2)
    own, others = (sum(each.numel() for each in model.parameters()) for model in (student, teacher))
    flops = training_flops(student, teacher, tokens=10.0, recompute=True)
    assert flops == 10 * (8 * own + 2 * others)
    on_gpu = CompiledLayers([student, teacher], wanted=None, device=torch.device("cuda"))
    assert on_gpu.pays(4e14 * 3600)
    assert not on_gpu.pays(4e14 * 60)
    assert not CompiledLayers([student], wanted=None, device=torch.device("cpu")).pays(1e30)
