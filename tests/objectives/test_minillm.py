"""MiniLLM: its expected gradient against the exact one over all sequences, and its parts against plain loops."""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch, combine

VOCABULARY, LONGEST, STOP = 3, 4, 0
# Every prefix that a response may go on from has a row of scores of its own.
PREFIXES = [p for length in range(LONGEST) for p in product(range(1, VOCABULARY), repeat=length)]


def sequences() -> list[tuple[int, ...]]:
    """All responses: they end with the stop token, or at the greatest length."""
    going_on = [p for length in range(LONGEST + 1) for p in product(range(1, VOCABULARY), repeat=length)]
    return [(*p, STOP) for p in going_on if len(p) < LONGEST] + [p for p in going_on if len(p) == LONGEST]


def tables(seed: int = 0) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's scores after each prefix."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(len(PREFIXES), VOCABULARY, generator=generator).double() for _ in range(2))
    return student.requires_grad_(), 1.5 * teacher


def all_rows() -> tuple[Tensor, Tensor, Tensor]:
    """Of each token of each sequence: the prefix before it, the token, the sequence."""
    rows = [
        (PREFIXES.index(sequence[:t]), sequence[t], number)
        for number, sequence in enumerate(sequences())
        for t in range(len(sequence))
    ]
    prefix, token, number = torch.tensor(rows).T
    return prefix, token, number


def every_sequence(student: Tensor, teacher: Tensor, mix: float) -> tuple[Batch, Tensor]:
    """All sequences as one batch, and the probability with which each is drawn."""
    prefix, token, number = all_rows()
    drawn = (mix * teacher.softmax(-1) + (1 - mix) * student.detach().softmax(-1)).log()[prefix, token]
    batch = Batch(
        student=student[prefix], teacher=teacher[prefix], labels=token, response=number, sampled_log_probs=drawn
    )
    probabilities = torch.zeros(len(sequences()), dtype=torch.float64).index_add(0, number, drawn).exp()
    torch.testing.assert_close(probabilities.sum(), torch.ones((), dtype=torch.float64))
    return batch, probabilities


def exact(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p_S || p_T) of whole sequences and its gradient."""
    total = torch.zeros((), dtype=torch.float64)
    log_s, log_t = student.log_softmax(-1), teacher.log_softmax(-1)
    for sequence in sequences():
        places = [(PREFIXES.index(sequence[:t]), sequence[t]) for t in range(len(sequence))]
        log_q, log_p = (sum(table[place] for place in places) for table in (log_s, log_t))
        total = total + log_q.exp() * (log_q - log_p)  # type: ignore[union-attr]
    (gradient,) = torch.autograd.grad(total, student)
    return total.detach(), gradient


def expected(student: Tensor, teacher: Tensor, mix: float, **options: Any) -> tuple[Tensor, Tensor]:
    """Expectation, over the sequences drawn, of the loss (summed over a sequence's tokens) and of its gradient."""
    batch, probabilities = every_sequence(student, teacher, mix)
    (term,) = objectives.load("minillm", teacher_mix=mix, **options).terms(batch)
    assert batch.response is not None
    loss = (probabilities[batch.response] * term.rows).sum()
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


EXACT = {"length_normalize": False, "clip": False}


@pytest.mark.parametrize("single_step", [True, False])
@pytest.mark.parametrize("importance", ["token", "sequence"])
def test_on_policy_gradient_is_that_of_the_sequences_reverse_kl(importance: str, single_step: bool) -> None:
    student, teacher = tables()
    loss, gradient = expected(student, teacher, 0.0, importance=importance, single_step=single_step, **EXACT)
    exact_loss, exact_gradient = exact(student, teacher)
    torch.testing.assert_close(gradient, exact_gradient, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(loss, exact_loss)
    assert exact_gradient.abs().min() > 1e-6


@pytest.mark.parametrize("single_step", [True, False])
@pytest.mark.parametrize("mix", [0.2, 0.7])
def test_products_of_ratios_make_teacher_mixed_sampling_exact(mix: float, single_step: bool) -> None:
    student, teacher = tables()
    loss, gradient = expected(student, teacher, mix, importance="sequence", single_step=single_step, **EXACT)
    exact_loss, exact_gradient = exact(student, teacher)
    torch.testing.assert_close(gradient, exact_gradient, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(loss, exact_loss)


def test_the_papers_weights_are_an_approximation() -> None:
    """Near the exact gradient for a small mixture, and not equal to it."""
    student, teacher = tables()
    _, exact_gradient = exact(student, teacher)
    errors = []
    for mix in (0.0, 0.1, 0.4):
        _, gradient = expected(student, teacher, mix, **EXACT)
        errors.append((gradient - exact_gradient).norm() / exact_gradient.norm())
    assert errors[0] < 1e-12 < 0.01 < errors[1] < errors[2]
    assert errors[1] < 0.2


def test_the_single_step_alone_leaves_out_later_tokens() -> None:
    student, teacher = tables()
    _, gradient = expected(student, teacher, 0.0, long_term_weight=0.0, **EXACT)
    _, exact_gradient = exact(student, teacher)
    last = [row for row, prefix in enumerate(PREFIXES) if len(prefix) == LONGEST - 1]
    torch.testing.assert_close(gradient[last], exact_gradient[last])
    assert not torch.isclose(gradient[0], exact_gradient[0]).any()


def by_loops(batch: Batch, *, normalize: bool, single_step: bool, clip: bool, long_term_weight: float) -> Tensor:
    """The gradient of the sum over tokens, token by token."""
    assert batch.teacher is not None
    assert batch.labels is not None
    assert batch.response is not None
    assert batch.sampled_log_probs is not None
    student = batch.student.detach().requires_grad_()
    log_s, log_t = student.log_softmax(-1), batch.teacher.log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for number in batch.response.unique().tolist():
        rows = [row for row, of in enumerate(batch.response.tolist()) if of == number]
        tokens = [int(batch.labels[row]) for row in rows]
        rewards = [(log_t[row, token] - log_s[row, token]).item() for row, token in zip(rows, tokens, strict=True)]
        for t, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            weight = math.exp((log_s[row, token] - batch.sampled_log_probs[row]).item())
            later = rewards[t + 1 :] if single_step else rewards[t:]
            back = sum(later) / len(later) if normalize and later else sum(later)
            if clip and min(weight * back, min(max(weight, 0.8), 1.2) * back) < weight * back:
                back = 0.0
            total = total - long_term_weight * weight * back * log_s[row, token]
            if single_step:
                total = total + weight * (log_s[row].exp() * (log_s[row] - log_t[row])).sum()
    (gradient,) = torch.autograd.grad(total, student)
    return gradient


def drawn_batch(lengths: tuple[int, ...] = (3, 1, 4, 2), candidates: int = 6) -> Batch:
    """Tokens of a few responses, drawn from something near the student."""
    generator = torch.Generator().manual_seed(5)
    rows = sum(lengths)
    student, teacher = (torch.randn(rows, candidates, generator=generator).double() for _ in range(2))
    labels = torch.randint(candidates, (rows,), generator=generator)
    log_probs = student.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return Batch(
        student=student,
        teacher=teacher,
        labels=labels,
        response=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        sampled_log_probs=log_probs + 0.4 * torch.randn(rows, generator=generator).double(),
    )


def gradient_of(batch: Batch, *, rows: int = 1, **options: Any) -> Tensor:
    student = batch.student.detach().clone().requires_grad_()
    combine(objectives.load("minillm", **options).terms(replace(batch, student=student)), rows=rows).backward()
    assert student.grad is not None
    return student.grad


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("single_step", [True, False])
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_loops_over_the_tokens(normalize: bool, single_step: bool, clip: bool) -> None:
    batch = drawn_batch()
    options = {"single_step": single_step, "clip": clip, "long_term_weight": 0.7}
    found = gradient_of(batch, length_normalize=normalize, **options)
    torch.testing.assert_close(found, by_loops(batch, normalize=normalize, **options))
    other = by_loops(batch, normalize=normalize, **{**options, "clip": not clip})
    assert not torch.allclose(found, other)  # some weights are beyond the limits


def test_the_value_is_the_weighted_reverse_kl() -> None:
    batch = drawn_batch()
    assert batch.teacher is not None
    log_s, log_t = batch.student.log_softmax(-1), batch.teacher.log_softmax(-1)
    kl = (log_s.exp() * (log_s - log_t)).sum(-1)
    plain = replace(batch, sampled_log_probs=None)
    for options in ({}, {"single_step": False}, {"importance": "sequence", "clip": False}):
        (term,) = objectives.load("minillm", **options).terms(plain)
        torch.testing.assert_close(term.rows, kl)
    (term,) = objectives.load("minillm").terms(batch)
    assert batch.labels is not None
    assert batch.sampled_log_probs is not None
    ratio = (log_s.gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1) - batch.sampled_log_probs).exp()
    torch.testing.assert_close(term.rows, ratio * kl)


def test_stored_responses_have_weights_of_one() -> None:
    batch = drawn_batch()
    assert batch.labels is not None
    own = batch.student.log_softmax(-1).gather(-1, batch.labels.unsqueeze(-1)).squeeze(-1)
    expected_gradient = gradient_of(replace(batch, sampled_log_probs=own))
    torch.testing.assert_close(gradient_of(replace(batch, sampled_log_probs=None)), expected_gradient)
    assert not torch.allclose(gradient_of(batch), expected_gradient)


def test_clip_lets_go_of_what_is_pushed_far_enough() -> None:
    """Two tokens per response: the first is pushed by the second's reward."""
    student = torch.zeros(4, 2, dtype=torch.float64)
    teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    batch = Batch(
        student=student, teacher=teacher, labels=torch.zeros(4, dtype=torch.int64), response=torch.tensor([0, 0, 1, 1])
    )
    for ratio, pushed in ((1.1, (True, True)), (1.3, (False, True)), (0.9, (True, True)), (0.7, (True, False))):
        drawn = torch.full((4,), math.log(0.5 / ratio), dtype=torch.float64)
        gradient = gradient_of(replace(batch, sampled_log_probs=drawn))
        # Rows 0 and 2 are the first tokens; their own reverse KL is at its minimum. The teacher likes the second token
        # of response 0 more than the student does (a positive reward), that of response 1 less.
        assert (gradient[[0, 2], 0] != 0).tolist() == list(pushed)
        assert gradient[0, 0] <= 0 <= gradient[2, 0]


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1], [2], [3]], [[3, 0], [2, 1]]])
def test_whole_responses_may_be_split_over_micro_batches(parts: list[list[int]]) -> None:
    batch = drawn_batch()
    assert batch.response is not None
    whole = gradient_of(batch, rows=10)
    for part in parts:
        rows = torch.cat([(batch.response == number).nonzero().squeeze(-1) for number in part])
        renumbered = torch.tensor([part.index(number) for number in batch.response[rows].tolist()])
        taken = {name: getattr(batch, name)[rows] for name in ("student", "teacher", "labels", "sampled_log_probs")}
        torch.testing.assert_close(gradient_of(Batch(**taken, response=renumbered), rows=10), whole[rows])
    assert objectives.load("minillm").couples_rows


def test_tokens_that_do_not_count_are_as_if_absent() -> None:
    batch = drawn_batch()
    assert batch.labels is not None
    out = torch.tensor([1, 7])
    kept = torch.tensor([row for row in range(10) if row not in out])
    fields = ("student", "teacher", "labels", "sampled_log_probs", "response")
    expected_gradient = gradient_of(Batch(**{name: getattr(batch, name)[kept] for name in fields}))
    junk = batch.student.clone()
    junk[out] = math.nan
    mask = torch.ones(10, 6, dtype=torch.bool)
    mask[out] = False
    found = gradient_of(replace(batch, student=junk, mask=mask))
    torch.testing.assert_close(found[kept], expected_gradient)
    assert (found[out] == 0).all()
    torch.testing.assert_close(
        gradient_of(replace(batch, labels=batch.labels.index_fill(0, out, -100)))[kept], expected_gradient
    )


def test_what_the_trainer_asks() -> None:
    method = objectives.load("minillm")
    assert (method.on_policy, method.teacher_mixed_in, method.levels) == (1.0, 0.2, ("row",))
    assert objectives.load("minillm", teacher_mix=0.5).teacher_mixed_in == 0.5
    assert method.head_options(0.0) is None


def test_what_is_missing_is_said() -> None:
    for name in ("labels", "response"):
        with pytest.raises(ValueError, match="minillm needs the tokens"):
            objectives.load("minillm").terms(replace(drawn_batch(), **{name: None}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher_mix": 1.0}, "teacher_mix .* 1.0"),
        ({"teacher_mix": -0.1}, "teacher_mix .* -0.1"),
        ({"long_term_weight": -1.0}, "long_term_weight .* -1.0"),
        ({"importance": "sequence"}, "clip .* set clip: false"),
        ({"single_step": False, "long_term_weight": 0.0}, "leaves nothing"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^minillm: .*{message}"):
        objectives.load("minillm", **options)


def test_the_size_of_the_table_is_read_once() -> None:
    """Every read of it waits for the device."""

    class Counted(TorchDispatchMode):
        reads = 0

        def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            self.reads += operation.overloadpacket is torch.ops.aten.max
            return operation(*arguments, **(options or {}))

    batch, _ = every_sequence(*tables(), mix=0.2)
    with Counted() as counted:
        objectives.load("minillm").terms(batch)
    assert counted.reads == 2
