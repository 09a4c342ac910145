"""SGD and AdamW on lists of tensors, in a few batched operations, with the learning rate as a tensor on the device.

PyTorch's own read the learning rate on the host, or only under options that differ by device; these run the same way on
a CPU, on a GPU and while a CUDA graph is captured. Tests hold them to PyTorch's.
"""

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

Schedule = Literal["linear", "cosine", "constant"]
Optimizer = Literal["sgd", "adamw"]


class Stepper(Protocol):
    """Changes parameters in place by their gradients (which stay: two of them may be one tensor)."""

    def step(self, gradients: Sequence[Tensor], learning_rate: Float[Tensor, ""]) -> None: ...

    def reset(self) -> None:
        """As before the first step."""


class Sgd:
    """Nesterov's momentum with weight decay, as torch.optim.SGD(nesterov=True).

    g = gradient + weight_decay * p;  b = momentum * b + g;  p -= learning_rate * (g + momentum * b)
    """

    def __init__(self, parameters: Sequence[Tensor], *, momentum: float, weight_decay: float) -> None:
        self.parameters, self.momentum, self.weight_decay = list(parameters), momentum, weight_decay
        self.velocity = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], learning_rate: Float[Tensor, ""]) -> None:
        steps = list(gradients)
        if self.weight_decay:
            steps = list(torch._foreach_add(steps, self.parameters, alpha=self.weight_decay))
        if self.momentum:
            torch._foreach_mul_(self.velocity, self.momentum)
            torch._foreach_add_(self.velocity, steps)
            steps = list(torch._foreach_add(steps, self.velocity, alpha=self.momentum))
        torch._foreach_sub_(self.parameters, torch._foreach_mul(steps, learning_rate))

    def reset(self) -> None:
        torch._foreach_zero_(self.velocity)


class AdamW:
    """Decoupled weight decay, as torch.optim.AdamW with its betas (.9, .999) and epsilon 1e-8.

    m = .9 m + .1 g;  v = .999 v + .001 g^2;  p -= learning_rate * (weight_decay * p + m' / (sqrt(v') + 1e-8)),
    m' and v' corrected for their start at 0. Source: Loshchilov & Hutter, arXiv 1711.05101.
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8

    def __init__(self, parameters: Sequence[Tensor], *, weight_decay: float) -> None:
        self.parameters, self.weight_decay = list(parameters), weight_decay
        self.mean = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.square = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.count = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], learning_rate: Float[Tensor, ""]) -> None:
        steps, (first, second) = list(gradients), self.BETAS
        self.count += 1
        torch._foreach_lerp_(self.mean, steps, 1 - first)
        torch._foreach_mul_(self.square, second)
        torch._foreach_addcmul_(self.square, steps, steps, 1 - second)
        if self.weight_decay:
            torch._foreach_mul_(self.parameters, 1 - learning_rate * self.weight_decay)
        roots = torch._foreach_sqrt(self.square)
        torch._foreach_div_(roots, (1 - second**self.count).sqrt().float())
        torch._foreach_add_(roots, self.EPSILON)
        updates = torch._foreach_div(self.mean, roots)
        torch._foreach_mul_(updates, (learning_rate / (1 - first**self.count)).float())
        torch._foreach_sub_(self.parameters, updates)

    def reset(self) -> None:
        torch._foreach_zero_([*self.mean, *self.square])
        self.count.zero_()


def learning_rates(peak: float, steps: int, *, schedule: Schedule, warmup: float) -> Float[Tensor, " steps"]:
    """The learning rate of every step: up in equal steps over the first `warmup` of them, then by the schedule.

    w = ceil(warmup * steps). Up: peak * (i + 1) / w for i < w. Then with q = (i - w) / (steps - w), in [0, 1):
    cosine: peak * (1 + cos(pi q)) / 2;  linear: peak * (1 - q);  constant: peak.
    """
    rising = math.ceil(warmup * steps)
    rates = []
    for step in range(steps):
        share = (step - rising) / max(1, steps - rising)
        fall = {"cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share, "constant": 1.0}[schedule]
        rates.append(peak * ((step + 1) / rising if step < rising else fall))
    return torch.tensor(rates)
