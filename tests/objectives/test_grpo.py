"""GRPO: brute force on small groups, and TRL's loss on the same tensors."""

from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch, ResponseTokens, combine

LENGTHS = [[3, 1, 2], [2, 4, 1]]
FLAT = [length for group in LENGTHS for length in group]
SCORES = [[1.0, 0.0, 0.5], [2.0, 2.0, 5.0]]


def batch(*, seed: int = 0, old_shift: float = 0.4, mask: Any = None, scores: Any = None) -> tuple[Batch, Tensor]:
    """Two prompts with three responses; the tokens' log-probabilities are the leaf."""
    generator = torch.Generator().manual_seed(seed)
    places = [place for place, length in enumerate(FLAT) for _ in range(length)]
    log_probs = -torch.rand(len(places), generator=generator, dtype=torch.float64) * 2
    old = log_probs + old_shift * torch.randn(len(places), generator=generator, dtype=torch.float64)
    log_probs.requires_grad_()
    made = Batch(
        level="response",
        student=torch.zeros(2, 3, dtype=torch.float64),
        teacher=torch.tensor(SCORES if scores is None else scores, dtype=torch.float64),
        mask=None if mask is None else torch.tensor(mask),
        tokens=ResponseTokens(log_probs=log_probs, place=torch.tensor(places), sampled_log_probs=old),
    )
    return made, log_probs


def brute_force(made: Batch, *, low: float, high: float, scale: bool, per_token: bool) -> Tensor:
    """Loops over prompts, responses and tokens."""
    assert made.tokens is not None
    assert made.teacher is not None
    sums, tokens, losses = torch.zeros((), dtype=torch.float64), 0, []
    for row in range(2):
        there = [k for k in range(3) if made.mask is None or made.mask[row, k]]
        values = torch.stack([made.teacher[row, k] for k in there])
        advantages = values - values.mean()
        if scale:
            advantages = advantages / (values.std() + 1e-4)
        means = []
        for k, advantage in zip(there, advantages, strict=True):
            parts = []
            for at in range(len(made.tokens.place)):
                if made.tokens.place[at] == 3 * row + k:
                    ratio = (made.tokens.log_probs[at] - made.tokens.sampled_log_probs[at]).exp()
                    parts.append(-torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage))
            means.append(torch.stack(parts).mean())
            sums, tokens = sums + torch.stack(parts).sum(), tokens + len(parts)
        losses.append(torch.stack(means).mean())
    every = sum(FLAT)
    return sums / every if per_token else torch.stack(losses).mean()


@pytest.mark.parametrize("normalize", ["sequence", "token"])
@pytest.mark.parametrize("scale", ["group", "none"])
def test_equals_loops(normalize: str, scale: str) -> None:
    made, log_probs = batch()
    method = objectives.load("grpo", normalize=normalize, scale=scale, clip_low=0.1, clip_high=0.3)
    loss = combine(method.terms(made))
    wanted = brute_force(made, low=0.1, high=0.3, scale=scale == "group", per_token=normalize == "token")
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=1e-12)
    (own,) = torch.autograd.grad(loss, log_probs)
    (other,) = torch.autograd.grad(wanted, log_probs)
    torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kind", "normalize"), [("grpo", "sequence"), ("bnpo", "token")])
def test_equals_the_loss_of_trl(kind: str, normalize: str) -> None:
    """TRL's own method on the padded tensors; it takes advantages as given."""
    made, log_probs = batch()
    assert made.tokens is not None
    mask = torch.tensor([[column < length for column in range(4)] for length in FLAT])
    padded = torch.zeros(6, 4, dtype=torch.float64).masked_scatter(mask, log_probs)
    old = torch.zeros(6, 4, dtype=torch.float64).masked_scatter(mask, made.tokens.sampled_log_probs)
    scores = torch.tensor(SCORES, dtype=torch.float64)
    advantages = (scores - scores.mean(-1, keepdim=True)) / (scores.std(-1, keepdim=True) + 1e-4)
    stand_in = MagicMock()
    stand_in._get_per_token_logps_and_entropies.return_value = (padded, torch.zeros(6, 4), None)
    stand_in.configure_mock(
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=0.0,
        loss_type=kind,
        epsilon_low=0.2,
        epsilon_high=0.2,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        aux_loss_enabled=False,
    )
    stand_in.args.delta = None
    stand_in.accelerator.gather.side_effect = lambda value: value
    ids = torch.ones(6, 4, dtype=torch.long)
    theirs = GRPOTrainer._compute_loss(
        stand_in,
        stand_in.model,
        {
            "prompt_ids": ids,
            "prompt_mask": ids,
            "completion_ids": ids,
            "completion_mask": mask.double(),
            "advantages": advantages.flatten(),
            "old_per_token_logps": old,
        },
    )
    loss = combine(objectives.load("grpo", normalize=normalize).terms(made))
    torch.testing.assert_close(loss, theirs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, log_probs), torch.autograd.grad(theirs, log_probs))


def test_a_response_without_a_score_is_left_out() -> None:
    """It has no part in the group's mean, and its tokens have no gradient."""
    made, log_probs = batch(old_shift=0.05, mask=[[True, False, True], [True, True, True]])
    loss = combine(objectives.load("grpo").terms(made))
    torch.testing.assert_close(loss, brute_force(made, low=0.2, high=0.2, scale=True, per_token=False))
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert made.tokens is not None
    assert (gradient[made.tokens.place == 1] == 0).all()
    assert (gradient[made.tokens.place == 0] != 0).any()


def test_a_group_of_equal_scores_teaches_nothing() -> None:
    made, log_probs = batch(scores=[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    loss = combine(objectives.load("grpo").terms(made))
    assert loss == 0
    assert (torch.autograd.grad(loss, log_probs)[0] == 0).all()


def test_on_policy_its_gradient_is_the_policy_gradient() -> None:
    """At p_old = p_S the gradient of a token is -A times that of its log-probability."""
    made, log_probs = batch(old_shift=0.0)
    loss = combine(objectives.load("grpo", scale="none", normalize="token").terms(made))
    (gradient,) = torch.autograd.grad(loss, log_probs)
    scores = torch.tensor(SCORES, dtype=torch.float64)
    advantages = (scores - scores.mean(-1, keepdim=True)).flatten()
    assert made.tokens is not None
    torch.testing.assert_close(gradient, -advantages[made.tokens.place] / len(log_probs))


def test_stored_responses_have_ratio_one() -> None:
    made, _ = batch()
    assert made.tokens is not None
    stored = ResponseTokens(
        log_probs=made.tokens.log_probs,
        place=made.tokens.place,
        sampled_log_probs=torch.full_like(made.tokens.log_probs, float("nan")),
    )
    without = ResponseTokens(log_probs=made.tokens.log_probs, place=made.tokens.place)
    method = objectives.load("grpo")
    values = [
        combine(method.terms(Batch(level="response", student=made.student, teacher=made.teacher, tokens=tokens)))
        for tokens in (stored, without)
    ]
    assert values[0].isfinite()
    assert values[0] == values[1]


def test_teacher_kl_is_the_reverse_kl_of_its_tokens() -> None:
    student = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(4, 6, dtype=torch.float64)
    method = objectives.load("grpo", teacher_kl=0.3)
    assert method.levels == ("row", "response")
    loss = combine(method.terms(Batch(student=student, teacher=teacher)))
    own, other = student.log_softmax(-1), teacher.log_softmax(-1)
    torch.testing.assert_close(loss, 0.3 * (own.exp() * (own - other)).sum(-1).mean())
    assert method.head_options(0.5) == {"alpha": 0.0, "divergence": "reverse_kl", "soft_scale": 0.3}
    assert objectives.load("grpo").levels == ("response",)


def test_options_out_of_range() -> None:
    with pytest.raises(UserError, match="clip_low must be 0 or more and below 1"):
        objectives.load("grpo", clip_low=1.0)
    with pytest.raises(UserError, match="teacher_kl must be 0 or more"):
        objectives.load("grpo", teacher_kl=-1.0)
    made, _ = batch()
    with pytest.raises(ValueError, match="needs the tokens"):
        objectives.load("grpo").terms(Batch(level="response", student=made.student, teacher=made.teacher))


def test_split_into_micro_batches_it_is_the_same() -> None:
    """Sums are divided once, by the step's prompts or tokens."""
    made, log_probs = batch()
    tokens = made.tokens
    assert tokens is not None
    for normalize in ("sequence", "token"):
        method = objectives.load("grpo", normalize=normalize)
        whole = combine(method.terms(made), rows=2, tokens=len(log_probs))
        parts = []
        for row in range(2):
            mine = (tokens.place >= 3 * row) & (tokens.place < 3 * row + 3)
            part = ResponseTokens(
                log_probs=tokens.log_probs[mine],
                place=tokens.place[mine] - 3 * row,
                sampled_log_probs=tokens.sampled_log_probs[mine],
            )
            own = slice(row, row + 1)
            of_row = Batch(level="response", student=made.student[own], teacher=made.teacher[own], tokens=part)
            parts.append(combine(method.terms(of_row), rows=2, tokens=len(log_probs)))
        torch.testing.assert_close(torch.stack(parts).sum(), whole, rtol=1e-12, atol=1e-12)
