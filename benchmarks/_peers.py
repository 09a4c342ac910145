"""The soft-target gradient as others compute it: plain torch, torch.compile, Liger and TRL.

Each function takes (hidden, weight, teacher_hidden, teacher_weight, softcap) and gives the mean forward KL a row, whose
gradient is the soft target's. Liger's have no softcap: they run without it.
"""

import contextlib
import functools
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

Head = Callable[..., Tensor]


def eager(hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, cap: float | None) -> Tensor:
    """Full logits, softmaxes in float32."""
    student, teacher = hidden @ weight.mT, teacher_hidden @ teacher_weight.mT
    if cap is not None:
        student, teacher = cap * torch.tanh(student / cap), cap * torch.tanh(teacher / cap)
    student, teacher = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum() / len(hidden)


def liger_chunked() -> Head:
    """Liger's chunked JSD at beta = 0 (compiled, as it comes)."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0)

    def head(
        hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, cap: float | None
    ) -> Tensor:
        labels = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
        found: Tensor = loss(hidden, weight, teacher_hidden, teacher_weight, labels)
        return found

    return head


def liger_fused() -> Head:
    """Liger's fused linear JSD at beta = 0."""
    from liger_kernel.transformers.functional import liger_fused_linear_jsd

    def head(
        hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, cap: float | None
    ) -> Tensor:
        found: Tensor = liger_fused_linear_jsd(hidden, weight, teacher_hidden, teacher_weight, jsd_beta=0.0)
        return found

    return head


def trl_chunked() -> Head:
    """TRL's chunked divergence at beta = 0."""
    function = _trl_function()

    def head(
        hidden: Tensor, weight: Tensor, teacher_hidden: Tensor, teacher_weight: Tensor, cap: float | None
    ) -> Tensor:
        found = function.apply(
            hidden, weight, None, teacher_hidden, teacher_weight, None, 0.0, 1.0, 1.0, cap, 1.0, cap
        )  # fmt: skip
        divergence: Tensor = found[0]
        return divergence.mean()

    return head


@functools.cache
def _trl_function() -> type[torch.autograd.Function]:
    """TRL's kernel without the rest of TRL, whose import needs packages that the kernel does not."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(next(iter(spec.submodule_search_locations)))
    for name in ("trl", "trl.kernels", "trl.trainer", "trl.trainer.utils"):
        module = types.ModuleType(name)
        module.__path__ = []
        sys.modules[name] = module
    sys.modules["trl.trainer.utils"].maybe_gather_lm_head_ctx = (  # type: ignore[attr-defined]
        lambda *weights: contextlib.nullcontext()
    )
    for name in ("chunked_logprob", "chunked_divergence"):
        path = folder / "kernels" / f"{name}.py"
        part = importlib.util.spec_from_file_location(f"trl.kernels.{name}", path)
        assert part is not None
        assert part.loader is not None
        module = importlib.util.module_from_spec(part)
        sys.modules[part.name] = module
        part.loader.exec_module(module)
    found: type[torch.autograd.Function] = sys.modules["trl.kernels.chunked_divergence"].ChunkedDivergenceFunction
    return found


def available() -> dict[str, Head]:
    """Every peer that can be imported here; the others are named on standard error."""
    heads: dict[str, Head] = {"eager": eager, "torch.compile": torch.compile(eager)}
    for name, make in (("liger chunked", liger_chunked), ("liger fused", liger_fused), ("trl chunked", trl_chunked)):
        try:
            heads[name] = make()
        except (ImportError, AssertionError) as problem:
            print(f"{name}: not measured ({problem})", file=sys.stderr)
    return heads
