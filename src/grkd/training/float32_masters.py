"""Weights that are stored in 16 bits: an optimiser that keeps float32 copies, and whether steps move them without."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainingArguments

from grkd.console import console
from grkd.errors import UserError

_SAVED = "float32_masters"  # key of the copies in the optimiser's state
_ADAPTIVE = ("adam", "lion", "lamb")  # optimisers whose steps are about the learning rate in size
_CHUNK = 1 << 28  # elements whose gradients are in float32 at a time: 1 GiB


class Float32Masters(Optimizer):
    """Steps of `inner` on float32 copies of its 16-bit parameters, which are rounded back to them.

        m = float32(w), once;  every step: m = inner's step from m by float32(gradient of w);  w = round(m)

    So steps that are too small for 16 bits add up in m. Parameters in float32 are stepped as they are. Gradients stay
    in 16 bits until the step, sums over micro-batches too; clipping sees them. Memory per weight with AdamW: 2 bytes, 2
    of the gradient, 4 of the copy and 8 of the moments.

    Parameters
    ----------
    inner : Optimizer
        A new one, over the parameters that are trained. Its groups are this optimiser's, so that a learning rate set in
        either is one.

    Raises
    ------
    UserError
        If none of the parameters is in 16 bits; from load_state_dict, if the state was saved without such copies.

    Notes
    -----
    Micikevicius et al., arXiv 1710.03740, section 3.1.
    """

    def __init__(self, inner: Optimizer) -> None:
        assert not inner.state, "the optimiser has made steps without masters"
        self.inner = inner
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        for group in inner.param_groups:
            group["params"] = [self._master(parameter) for parameter in group["params"]]
        if not self._pairs:
            raise UserError(
                "float32_masters: the student's weights are in float32 already; load it in bfloat16 "
                "(student.dtype: bfloat16), or remove float32_masters"
            )
        super().__init__(inner.param_groups, inner.defaults)
        self.state = inner.state
        apart = type(inner).__module__.startswith("torch.optim")  # others may know of all parameters at once
        self._chunks = _chunks(self._pairs) if apart else [self._pairs]
        masters = {id(master) for _, master in self._pairs}
        every = (parameter for group in inner.param_groups for parameter in group["params"])
        self._wide = [parameter for parameter in every if id(parameter) not in masters]

    def _master(self, parameter: nn.Parameter) -> nn.Parameter:
        if parameter.dtype not in (torch.bfloat16, torch.float16):
            return parameter
        self._pairs.append((parameter, nn.Parameter(parameter.detach().float())))
        return self._pairs[-1][1]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [parameter.grad for parameter in self._wide]
        for chunk in self._chunks:
            for weight, master in chunk:
                master.grad = None if weight.grad is None else weight.grad.float()
            self.inner.step()
            for weight, master in chunk:
                if master.grad is not None:
                    weight.copy_(master)
                    master.grad = None
            for parameter in self._wide:  # stepped with the first chunk
                parameter.grad = None
        for parameter, gradient in zip(self._wide, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters."""
        super().zero_grad(set_to_none)
        for weight, _ in self._pairs:
            if set_to_none or weight.grad is None:
                weight.grad = None
            else:
                weight.grad.detach_().zero_()

    def state_dict(self) -> dict[str, Any]:
        """That of the inner optimiser, and the copies."""
        return {**self.inner.state_dict(), _SAVED: [master.detach() for _, master in self._pairs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises UserError if it has no copies of these parameters."""
        state = dict(state_dict)
        saved: list[Tensor] = state.pop(_SAVED, [])
        if [each.shape for each in saved] != [master.shape for _, master in self._pairs]:
            raise UserError(
                "float32_masters: the checkpoint has no float32 copies of these weights; resume with the settings "
                "it was made with, or train in a new folder"
            )
        self.inner.load_state_dict(state)
        self.param_groups, self.state = self.inner.param_groups, self.inner.state
        with torch.no_grad():
            for (_, master), value in zip(self._pairs, saved, strict=True):
                master.copy_(value)


def _chunks(pairs: list[tuple[nn.Parameter, nn.Parameter]]) -> list[list[tuple[nn.Parameter, nn.Parameter]]]:
    """In order, each of at most _CHUNK elements or of one parameter."""
    found: list[list[tuple[nn.Parameter, nn.Parameter]]] = []
    room = 0
    for pair in pairs:
        room -= pair[0].numel()
        if room < 0 or not found:
            found.append([])
            room = _CHUNK - pair[0].numel()
        found[-1].append(pair)
    return found


@torch.no_grad()
def share_below_resolution(parameters: Iterable[Tensor], step: float) -> float:
    """Share of the 16-bit weights that a step of this size leaves as they are; 0 if there are none.

    w + step rounds to w where step is below half the distance to the next number, |w| 2^-8 for bfloat16 (2^-11 for
    float16) up to a factor of 2: counted are weights with step < |w| eps / 4, eps = 2^-7 (2^-10).
    """
    still = counted = 0
    for parameter in parameters:
        if parameter.dtype in (torch.bfloat16, torch.float16):
            still += int((parameter.abs().float() * (torch.finfo(parameter.dtype).eps / 4) > step).sum())
            counted += parameter.numel()
    return still / counted if counted else 0.0


def say_lost_steps(model: nn.Module, args: TrainingArguments) -> None:
    """A warning where most weights are too large, in 16 bits, for steps of an adaptive optimiser at this rate."""
    rate, optimizer = args.learning_rate, str(getattr(args.optim, "value", args.optim))
    if not any(kind in optimizer for kind in _ADAPTIVE):
        return
    share = share_below_resolution((each for each in model.parameters() if each.requires_grad), rate)
    if share > 0.5:
        console.print(
            f"[yellow]learning rate {rate:g}: {share:.0%} of the student's weights are too large for steps of that "
            "size in 16 bits and will not move; set float32_masters, load it in float32 (student.dtype: auto) or raise "
            "the rate[/yellow]",
            soft_wrap=True,
        )
