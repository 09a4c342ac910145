"""DPO against its formula in plain Python and against TRL's own loss."""

import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch, combine
from tests.objectives._pairs import ENDS, a_batch, only_the_ends


def loss_of(batch: Batch, **options: Any) -> Tensor:
    return combine(objectives.load("dpo", **options).terms(batch))


def margins(batch: Batch) -> list[float]:
    """Difference of the ends' log-ratios, summed over tokens, for the groups that have a pair."""
    assert batch.lengths is not None
    assert batch.reference is not None
    ratio = ((batch.student - batch.reference) * batch.lengths).tolist()
    return [ratio[row][pair[0]] - ratio[row][pair[1]] for row, pair in enumerate(ENDS) if pair]


@pytest.mark.parametrize(("beta", "smoothing"), [(0.1, 0.0), (0.5, 0.2)])
def test_equals_the_formula(beta: float, smoothing: float) -> None:
    batch = a_batch()
    expected = [
        (1 - smoothing) * math.log1p(math.exp(-beta * margin)) + smoothing * math.log1p(math.exp(beta * margin))
        for margin in margins(batch)
    ]
    found = loss_of(batch, beta=beta, label_smoothing=smoothing)
    assert found.item() == pytest.approx(sum(expected) / 4, rel=1e-12)


def test_defaults_are_the_papers() -> None:
    assert objectives.load("dpo") == objectives.load("dpo", beta=0.1, label_smoothing=0.0)
    # At the student before training the loss is log 2 whatever beta is.
    batch = a_batch()
    assert loss_of(replace(batch, reference=batch.student)).item() == pytest.approx(math.log(2))


def test_the_ends_alone_give_the_same() -> None:
    batch = a_batch()
    torch.testing.assert_close(loss_of(only_the_ends(batch)), loss_of(batch))


def test_only_the_ends_are_pushed() -> None:
    batch = a_batch()
    student = batch.student.clone().requires_grad_()
    loss_of(replace(batch, student=student)).backward()
    assert student.grad is not None
    for row, pair in enumerate(ENDS):
        signs = [0.0] * 4
        if pair:
            signs[pair[0]], signs[pair[1]] = -1.0, 1.0
        assert student.grad[row].sign().tolist() == signs


def test_gradcheck() -> None:
    batch = a_batch()
    assert torch.autograd.gradcheck(
        lambda student: loss_of(replace(batch, student=student), label_smoothing=0.1), batch.student.requires_grad_()
    )


def test_groups_without_a_pair_do_not_count() -> None:
    (term,) = objectives.load("dpo").terms(a_batch())
    assert term.counted.tolist() == [True, True, True, True, False, False]


def test_equals_trl() -> None:
    """The same log-probabilities through DPOTrainer's loss, with a model that hands them out."""
    trl = pytest.importorskip("trl", reason="trl is not installed")
    batch = only_the_ends(a_batch())
    assert batch.lengths is not None
    assert batch.reference is not None
    rows = torch.arange(4)  # those with a pair
    log_probs = (batch.student * batch.lengths)[rows].T.reshape(-1, 1)  # chosen, then rejected; one token each
    reference = (batch.reference * batch.lengths)[rows]
    ones = torch.ones_like(log_probs)
    outputs = SimpleNamespace(log_probs=log_probs, entropy=ones, mean_logits=ones, is_top1=ones.bool())
    gathers = {"gather": lambda value: value, "gather_for_metrics": lambda value: value}
    trainer = SimpleNamespace(
        model=torch.nn.Identity(),
        accelerator=SimpleNamespace(device=torch.device("cpu"), **gathers),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=0.3,
        use_weighting=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    ids = torch.ones(8, 2, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": ids, "completion_mask": ids}
    inputs |= {"ref_chosen_logps": reference[:, 0], "ref_rejected_logps": reference[:, 1]}
    expected = trl.DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)
    torch.testing.assert_close(loss_of(batch, beta=0.3), expected)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ValueError, match="dpo needs reference log-probabilities"):
        loss_of(replace(a_batch(), reference=None))
    with pytest.raises(ValueError, match="dpo needs the lengths of responses"):
        loss_of(replace(a_batch(), lengths=None))


@pytest.mark.parametrize(("option", "value"), [("beta", 0.0), ("label_smoothing", 0.5), ("label_smoothing", -0.1)])
def test_values_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"^dpo: {option} .*{value}"):
        objectives.load("dpo", **{option: value})
