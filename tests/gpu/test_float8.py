"""Float8 layers on a GPU that has such products: the product of the rounded numbers, compiled too, of any length."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from grkd.errors import UserError
from grkd.models.float8 import FLOAT8, Float8Linear, check_float8, to_float8
from grkd.models.graph_sampler import Draw, free_memory, sample

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.fixture(autouse=True)
def able() -> None:
    try:
        check_float8(torch.device("cuda"), "teacher.dtype")
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("tokens", [1, 7, 300])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_layer_is_the_product_of_rounded_numbers(tokens: int, compiled: bool) -> None:
    torch.manual_seed(0)
    layer = Float8Linear(nn.Linear(256, 512, bias=False).bfloat16())
    inputs = torch.randn(1, tokens, 256).bfloat16()
    scale = inputs.float().abs().amax(-1, keepdim=True) / 448
    read = (inputs.float() / scale).to(FLOAT8).double() * scale
    exact = (read @ (layer.weight.double() * layer.scale.mT).mT).float()
    layer.cuda()
    if compiled:
        layer.compile()
    found = layer(inputs.cuda()).float().cpu()
    assert (found - exact).norm() < 0.01 * exact.norm()  # compiled, some numbers are rounded the other way


def test_a_teacher_reads_and_writes() -> None:
    """Its logits are near bfloat16's, and the decode step takes its layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()
    ids = torch.randint(3, 500, (2, 50), device="cuda")
    with torch.no_grad():
        before = model(ids).logits.float()
        after = to_float8(model)(ids).logits.float()
    assert 0 < (after - before).norm() / before.norm() < 0.15
    prompts = [[5, 6, 7], [9] * 20]
    found = [
        one
        for made in sample(model, prompts, seeds=[0, 1], max_new_tokens=6, draw=Draw(), stop_ids=[2])
        for one in made
    ]
    assert sorted(answer.index for answer in found) == [0, 1]
    free_memory()
