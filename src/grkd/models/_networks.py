"""The two built-in networks: small enough to distil in seconds on a CPU.

Their options come from a recipe as they are: each is checked here, with an error that names it.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from grkd.errors import UserError


def mlp(*, input_shape: Sequence[int], classes: int, hidden: Any = (256,), dropout: Any = 0.0) -> nn.Sequential:
    """Flatten, then a linear layer, GELU and dropout for each of `hidden`, then a linear layer to the classes.

    hidden []: a linear model. Raises UserError for sizes below 1 or dropout outside [0, 1).
    """
    _check_sizes("mlp: hidden", hidden)
    _check_dropout("mlp", dropout)
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for size in hidden:
        # GELU: of a handful of ReLUs on inputs that are all positive, most die early in training.
        layers += [nn.Linear(width, size), nn.GELU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, classes))


def cnn(
    *, input_shape: Sequence[int], classes: int, channels: Any = (32, 64, 128), dropout: Any = 0.0
) -> nn.Sequential:
    """For each of `channels` a 3x3 convolution, batch norm, ReLU and, while the sides are 4 or more, 2x2 max pooling;
    then the mean over the image, dropout and a linear layer to the classes.

    Raises UserError for inputs that are no images, sizes below 1, no channels, or dropout outside [0, 1).
    """
    if len(input_shape) != 3:
        raise UserError(
            f"cnn: needs images [channels, height, width], got inputs of shape {tuple(input_shape)}; use mlp"
        )
    _check_sizes("cnn: channels", channels)
    if not channels:
        raise UserError("cnn: channels must not be empty")
    _check_dropout("cnn", dropout)
    width, side = input_shape[0], min(input_shape[1:])
    layers: list[nn.Module] = []
    for size in channels:
        layers += [nn.Conv2d(width, size, 3, padding=1, bias=False), nn.BatchNorm2d(size), nn.ReLU()]
        width = size
        if side >= 4:
            layers.append(nn.MaxPool2d(2))
            side //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(width, classes))


def _check_sizes(name: str, sizes: object) -> None:
    if not isinstance(sizes, list | tuple) or not all(type(size) is int and size >= 1 for size in sizes):
        raise UserError(f"{name} must be a list of whole numbers of 1 or more, got {sizes!r}")


def _check_dropout(name: str, dropout: object) -> None:
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"{name}: dropout must be in [0, 1), got {dropout!r}")
