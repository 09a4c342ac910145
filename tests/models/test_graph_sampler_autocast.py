"""The decode step under autocast: what it is compared with, how exact it is, and which faults it is refused for."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from grkd.models import graph_sampler
from grkd.models.decoder_step import Cache, DecoderStep
from grkd.models.graph_sampler import Draw, NotSupportedError, free_memory
from tests.models.test_graph_sampler import CONFIGS, answered, tiny

DRAW = random.Random(0)
PROMPTS = [DRAW.choices(range(40), k=DRAW.randint(2, 12)) for _ in range(24)]


def bfloat16() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


def test_the_check_follows_weights_that_change_inside_of_autocast() -> None:
    """autocast keeps its casts of the weights until its end: the model itself would speak by the old ones."""
    model = tiny()
    with bfloat16():
        first = answered(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.7).add_(0.01)
        changed = answered(model)
        free_memory()
        assert answered(model) == changed
    assert [answer.response_ids for answer in changed] != [answer.response_ids for answer in first]


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_as_near_to_float32_as_the_model_under_autocast(family: str) -> None:
    model = tiny(family)
    exact = torch.cat([model(torch.tensor([prompt])).logits[:, -1] for prompt in PROMPTS])
    with bfloat16():
        own = torch.cat([model(torch.tensor([prompt])).logits[:, -1] for prompt in PROMPTS])
    step = DecoderStep(model, dtype=torch.bfloat16)
    rows = range(len(PROMPTS))
    cache = step.cache(len(PROMPTS), 16)
    step.prefill(PROMPTS, rows, cache)
    tokens = torch.tensor([prompt[-1] for prompt in PROMPTS])
    ours = step.logits(tokens, torch.tensor([len(prompt) - 1 for prompt in PROMPTS]), cache).float()
    if step.softcap is not None:
        ours = step.softcap * torch.tanh(ours / step.softcap)
    assert sizes(ours - exact).median() < 2 * sizes(own.float() - exact).median()  # 1.3: of a 16-bit model as well
    assert (ours - exact).std() < 0.05 * exact.std()


def sizes(logits: Tensor) -> Tensor:
    return logits.std(-1)


def test_of_a_wrapped_model_the_check_knows_the_precision() -> None:
    """accelerate wraps `forward` in an autocast of its own, which holds outside of the trainer's steps too."""
    model = tiny()
    expected = answered(model)
    free_memory()
    AcceleratorState._reset_state(reset_partial_state=True)  # another test may have begun one
    wrapped = Accelerator(cpu=True, mixed_precision="bf16").prepare_model(model)
    assert wrapped is model
    assert answered(model) == expected  # float32, since no autocast is on here
    with bfloat16():
        answered(model)
    assert graph_sampler._kept[model].rows.step.dtype == torch.bfloat16
    AcceleratorState._reset_state(reset_partial_state=True)


def rotated_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one place."""
    cache = DecoderStep.cache

    def shifted(self: DecoderStep, rows: int, slots: int) -> Cache:
        made = cache(self, rows, slots)
        assert self._tables is not None
        self._tables = (self._tables[0].roll(1, 0), self._tables[1].roll(1, 0))
        return made

    monkeypatch.setattr(DecoderStep, "cache", shifted)


def one_weight_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A matrix half as large again as the model's."""
    refresh = DecoderStep.refresh

    def spoilt(self: DecoderStep) -> None:
        refresh(self)
        self.parts[0].layers[1].mlp.up_proj.weight.data.mul_(1.5)  # type: ignore[union-attr, index]

    monkeypatch.setattr(DecoderStep, "refresh", spoilt)


@pytest.mark.parametrize("fault", [rotated_too_far, one_weight_wrong])
def test_faults_are_refused_in_16_bits(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: Any) -> None:
    fault(monkeypatch)
    with bfloat16(), pytest.raises(NotSupportedError, match=r"they differ by \d+\S* % of their size in bfloat16"):
        answered(tiny(), PROMPTS, batch_size=8, draw=Draw())
