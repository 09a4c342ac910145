"""A residual network for small images: the teacher of the classification recipes."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from grkd.errors import UserError


class _Block(nn.Module):
    """y = relu(x' + norm(conv(relu(norm(conv(x)))))); x' is x, or a 1x1 convolution of it where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after))
        self.second = nn.Sequential(nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after))
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.skip = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, images: Float[Tensor, "batch before height width"]) -> Float[Tensor, "batch after *size"]:
        return relu(self.skip(images) + self.second(relu(self.first(images))))


def residual(*, input_shape: Sequence[int], classes: int, width: int = 32, blocks: int = 2) -> nn.Sequential:
    """A 3x3 convolution, then three stages of `blocks` residual blocks with width, 2 width and 4 width channels, each
    but the first halving the sides; the mean over the image and a linear layer to the classes.

    Raises UserError for inputs that are no images of 4 pixels or more a side, or sizes below 1.
    Source: He et al., arXiv 1512.03385, section 4.2 (there with 16 channels and padded identity shortcuts).
    """
    if len(input_shape) != 3 or min(input_shape[1:]) < 4:
        raise UserError(f"residual: needs images of 4 x 4 pixels or more, got inputs of shape {tuple(input_shape)}")
    if width < 1 or blocks < 1:
        raise UserError(f"residual: width and blocks must be 1 or more, got {width} and {blocks}")
    layers: list[nn.Module] = [
        nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    before = width
    for stage in range(3):
        after = width * 2**stage
        for block in range(blocks):
            layers.append(_Block(before, after, 2 if stage > 0 and block == 0 else 1))
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes))
