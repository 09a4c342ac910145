"""Linear layers in float8: the rounding by hand, what is left as it was, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from grkd import GRKDConfig, recipe
from grkd.errors import UserError
from grkd.models.float8 import FLOAT8, Float8Linear, check_float8, to_float8


def known_here() -> bool:
    """Whether this PyTorch has the product on a CPU (2.13 has, 2.11 has not)."""
    layer = Float8Linear(nn.Linear(16, 16, bias=False).bfloat16())
    try:
        layer(torch.ones(1, 16, dtype=torch.bfloat16))
    except RuntimeError:
        return False
    return True


needs_products = pytest.mark.skipif(not known_here(), reason="this PyTorch has float8 products on GPUs alone")


def rounded(rows: torch.Tensor) -> torch.Tensor:
    """e4m3 by hand: per row scaled to 448; three bits behind the leading one, at least 2^-6; ties to even."""
    scale = rows.float().abs().amax(-1, keepdim=True) / 448
    values = (rows.float() / scale).double()  # in float32, as the code has it: which way a tie goes hangs on it
    unit = torch.exp2(values.abs().clamp_min(2.0**-6).log2().floor() - 3)
    return (values / unit).round() * unit * scale


@needs_products
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_is_the_product_of_rounded_rows(bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias).bfloat16()
    inputs = (torch.randn(2, 5, 64) * torch.logspace(-3, 2, 5)[:, None]).bfloat16()  # tokens of very different size
    inputs[0, 0] = 0
    found = Float8Linear(linear)(inputs)
    exact = rounded(inputs.flatten(0, 1)).nan_to_num() @ rounded(linear.weight.detach()).mT
    shift = linear.bias.double() if bias else torch.zeros(48)
    expected = exact.view(2, 5, 48) + shift
    sizes = exact.view(2, 5, 48).abs() + shift.abs()  # both are rounded to bfloat16 before they are added
    assert bool(((found.double() - expected).abs() <= 2**-7 * sizes).all())
    plain = linear(inputs).double()
    off = (found.double() - plain).norm(dim=-1) / plain.norm(dim=-1).clamp_min(1e-9)
    assert 0 < off.max() < 0.06


@needs_products
def test_a_model_keeps_its_head_embeddings_and_odd_layers() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).bfloat16().eval()
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        before = model(ids).logits.float()
        after = to_float8(model)(ids).logits.float()
    kinds = {name.rpartition(".")[2]: type(each) for name, each in model.named_modules()}
    assert kinds["q_proj"] is kinds["o_proj"] is Float8Linear
    assert kinds["lm_head"] is kinds["up_proj"] is kinds["down_proj"] is nn.Linear  # 40 is no multiple of 16
    assert not any(each.requires_grad for each in model.parameters())
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16, FLOAT8}
    assert 0 < (after - before).norm() / before.norm() < 0.1


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    with pytest.raises(UserError, match=r"teacher.dtype: float8 needs an NVIDIA GPU .* which this CPU is not"):
        check_float8(cpu, "teacher.dtype")
    for capability, fine in (((8, 0), False), ((8, 9), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
        if fine:
            check_float8(gpu, "teacher.dtype")
        else:
            with pytest.raises(UserError, match="NVIDIA A100"):
                check_float8(gpu, "teacher.dtype")
    path = tmp_path / "recipe.yaml"
    text = "task: language_model\noutput: run\nstudent: {model: c/d}\ndata: {train: x.jsonl}\nmethods: [kd]\n"
    path.write_text(text + "teacher: {model: a/b, dtype: float8, placement: sharded}\n")
    with pytest.raises(UserError, match="float8 are not sharded"):
        recipe.read(path)
    options: dict[str, Any] = {"use_cpu": True, "report_to": "none"}
    with pytest.raises(UserError, match="teacher_placement: weights in float8"):
        GRKDConfig(str(tmp_path), **options, teacher_dtype="float8", teacher_placement="sharded")


def test_a_run_on_a_cpu_says_so_first(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from grkd import cli

    assert cli.main(["run", str(tiny_recipe), "teacher.dtype=float8", "--check"]) == 2
    assert "compute capability 8.9" in capsys.readouterr().err
