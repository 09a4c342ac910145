"""The residual network: its shapes, its size by hand, and what it refuses."""

import pytest
import torch
from torch import nn

from grkd.errors import UserError
from grkd.models.networks import build
from grkd.models.residual import residual


def parameters(width: int, blocks: int, classes: int) -> int:
    """Counted by hand: convolutions without bias, two numbers a channel of every norm, the last layer."""
    total, before = 27 * width + 2 * width, width
    for stage in range(3):
        after = width * 2**stage
        for _ in range(blocks):
            total += 9 * before * after + 9 * after * after + 4 * after
            total += before * after + 2 * after if before != after else 0
            before = after
    return total + before * classes + classes


@pytest.mark.parametrize(("width", "blocks"), [(4, 1), (6, 2)])
def test_shapes_and_size(width: int, blocks: int) -> None:
    network = residual(input_shape=(3, 16, 12), classes=7, width=width, blocks=blocks)
    assert network(torch.zeros(2, 3, 16, 12)).shape == (2, 7)
    assert sum(value.numel() for value in network.parameters()) == parameters(width, blocks, 7)
    sizes = []
    for layer in network:
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            layer.register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape[-2:])))
    network(torch.zeros(1, 3, 16, 12))
    assert sizes == [(4, 3)]


def test_a_block_adds_what_it_read() -> None:
    network = residual(input_shape=(3, 8, 8), classes=2, width=4, blocks=1).eval()
    block = network[3]
    with torch.no_grad():
        for layer in block.second:
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.zero_()
        images = torch.rand(2, 4, 8, 8)
        torch.testing.assert_close(block(images), images)  # nothing but the skip is left


def test_it_is_a_factory_of_recipes_and_refuses_what_it_cannot_take() -> None:
    name = "grkd.models.residual:residual"
    module = build(name, input_shape=(3, 8, 8), classes=5, options={"width": 4, "blocks": 1}, seed=0)
    assert isinstance(module, nn.Sequential)
    with pytest.raises(UserError, match="images of 4 x 4"):
        residual(input_shape=(64,), classes=2)
    with pytest.raises(UserError, match="1 or more, got 0 and 2"):
        residual(input_shape=(3, 8, 8), classes=2, width=0)
