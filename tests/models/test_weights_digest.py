"""A digest of a model's weights changes with any of them."""

import torch
from torch import nn

from grkd.models.weights_digest import weights_digest


def test_integers_of_quantised_weights_count() -> None:
    """Two students of one base model that are quantised may differ in these alone."""

    def layer(*codes: int) -> nn.Module:
        made = nn.Module()
        made.register_buffer("codes", torch.tensor(codes, dtype=torch.uint8))
        made.register_buffer("scales", torch.ones(2))
        return made

    assert weights_digest(layer(1, 2, 250)) == weights_digest(layer(1, 2, 250))
    assert weights_digest(layer(1, 2, 250)) != weights_digest(layer(1, 3, 250))
    assert weights_digest(nn.Linear(2, 2)) != weights_digest(nn.Linear(2, 2))
