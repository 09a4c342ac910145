"""The Triton kernels on a GPU: bf16, odd shapes, both forms of memory, compile, a second backward.

Over 300 lines: the same oracle, plain torch in the same dtype, for every function of grkd.kernels.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from grkd.kernels import all_pairs, distillation_head, pairs_head, selected_log_probs
from grkd.losses import group_relative

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # torch.compile and Triton warn about settings and deprecations of their own.
    pytest.mark.filterwarnings("ignore"),
]
DIVERGENCES = ("soft_target", "forward_kl", "reverse_kl", "jsd")
Head = dict[str, Tensor]


def case(rows: int, vocabulary: int, dtype: torch.dtype = torch.bfloat16, widths: tuple[int, int] = (96, 160)) -> Head:
    generator = torch.Generator("cuda").manual_seed(rows + vocabulary)

    def draw(*shape: int, factor: float = 1.0) -> Tensor:
        return (factor * torch.randn(*shape, generator=generator, device="cuda")).to(dtype)

    return {
        "student_hidden": draw(rows, widths[0]).requires_grad_(),
        "student_weight": draw(vocabulary, widths[0], factor=2.5 * widths[0] ** -0.5).requires_grad_(),
        "teacher_hidden": draw(rows, widths[1]),
        "teacher_weight": draw(vocabulary, widths[1], factor=3.0 * widths[1] ** -0.5),
    }


def groups_of(rows: int, vocabulary: int, size: int = 16) -> Tensor:
    return torch.rand(rows, vocabulary, device="cuda").topk(size).indices


def cap(x: Tensor, softcap: float | None) -> Tensor:
    return x if softcap is None else softcap * torch.tanh(x / softcap)


def plain(inputs: Head, group: Tensor | None, alpha: float, name: str, softcap: float | None) -> Tensor:
    """The formula in the inputs' dtype, as a user without kernels would write it (losses in float32 or float64)."""
    s = cap(inputs["student_hidden"] @ inputs["student_weight"].mT, softcap)
    t = cap(inputs["teacher_hidden"] @ inputs["teacher_weight"].mT, softcap)
    s, t = (x if x.dtype == torch.float64 else x.float() for x in (s, t))
    ls, lt = s.log_softmax(-1), t.log_softmax(-1)
    m = torch.logaddexp(lt, ls) - 0.6931471805599453
    loss = {
        "soft_target": lambda: -(lt.exp() * ls).sum(-1),
        "forward_kl": lambda: (lt.exp() * (lt - ls)).sum(-1),
        "reverse_kl": lambda: (ls.exp() * (ls - lt)).sum(-1),
        "jsd": lambda: 0.5 * (lt.exp() * (lt - m) + ls.exp() * (ls - m)).sum(-1),
    }[name]() * (1 - alpha)
    if group is not None:
        loss = loss + alpha * group_relative(s.gather(-1, group), t.gather(-1, group))
    return loss.sum() / 7


def gradients(loss: Tensor, inputs: Head) -> list[Tensor]:
    found = torch.autograd.grad(loss, [inputs["student_hidden"], inputs["student_weight"]])
    return [gradient.double() for gradient in found]


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    return [float((f - e).norm() / e.norm()) for f, e in zip(found, exact, strict=True)]


def no_worse_than_plain(inputs: Head, head: Callable[[], Tensor], reference: Callable[[Head], Tensor]) -> None:
    """err(head against float64) <= err(plain torch in the same dtype against float64) + a small tolerance."""
    exact_inputs = {name: t.detach().double().requires_grad_(t.requires_grad) for name, t in inputs.items()}
    expected = reference(exact_inputs)
    exact = gradients(expected, exact_inputs)
    loss = head()
    ours, theirs = errors(gradients(loss, inputs), exact), errors(gradients(reference(inputs), inputs), exact)
    slack = 1e-5 if inputs["student_hidden"].dtype == torch.float32 else 1e-3
    assert all(a <= b + slack for a, b in zip(ours, theirs, strict=True)), (ours, theirs)
    assert abs(float(loss) - float(expected)) <= (1e-5 if slack == 1e-5 else 5e-3) * abs(float(expected)) + 1e-6


@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_bf16_head(divergence: str, memory: str, softcap: float | None) -> None:
    inputs, group = case(123, 5003), groups_of(123, 5003)
    options: dict[str, Any] = {"alpha": 0.5, "divergence": divergence, "memory": memory, "chunk": 64}
    no_worse_than_plain(
        inputs,
        lambda: distillation_head(
            **inputs, group=group, rows=7, student_softcap=softcap, teacher_softcap=softcap, **options
        ),
        lambda given: plain(given, group, 0.5, divergence, softcap),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "vocabulary"), [(507, 123), (123, 507), (61, 49_157)])
def test_odd_shapes(rows: int, vocabulary: int, dtype: torch.dtype) -> None:
    inputs, group = case(rows, vocabulary, dtype), groups_of(rows, vocabulary)
    no_worse_than_plain(
        inputs,
        lambda: distillation_head(**inputs, alpha=0.5, group=group, rows=7, chunk=200),
        lambda given: plain(given, group, 0.5, "soft_target", None),
    )


@pytest.mark.parametrize("widths", [(2304, 3584, 256_000, 30.0), (3072, 4096, 128_256, None)])
def test_paper_shapes(widths: tuple[int, int, int, float | None]) -> None:
    student, teacher, vocabulary, softcap = widths
    inputs = case(256, vocabulary, widths=(student, teacher))
    group = groups_of(256, vocabulary)
    no_worse_than_plain(
        inputs,
        lambda: distillation_head(
            **inputs, alpha=0.5, group=group, rows=7, student_softcap=softcap, teacher_softcap=softcap, chunk=128
        ),
        lambda given: plain(given, group, 0.5, "soft_target", softcap),
    )


@pytest.mark.parametrize("choice", ["sample", "top"])
def test_chosen_group_is_used_and_repeats(choice: str) -> None:
    inputs = case(64, 20_001)

    def run(seed: int, **more: Any) -> tuple[Tensor, Tensor]:
        generator = torch.Generator("cuda").manual_seed(seed)
        loss = distillation_head(**inputs, alpha=0.5, group=choice, group_size=16, generator=generator, **more)
        return loss, loss.grad_fn.indices

    loss, indices = run(0)
    again, same = run(0, memory="lean")
    assert torch.equal(indices, same)
    torch.testing.assert_close(loss, again)
    assert all(len(set(row)) == 16 for row in indices.tolist())
    teacher = inputs["teacher_hidden"] @ inputs["teacher_weight"].mT
    if choice == "top":
        assert torch.equal(teacher.gather(-1, indices).sort(-1).values, teacher.topk(16).values.flip(-1))
    else:
        assert not torch.equal(indices, run(1)[1])
    given = distillation_head(**inputs, alpha=0.5, group=indices)
    torch.testing.assert_close(loss, given)


def test_samples_follow_the_teacher() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.15, 0.1], device="cuda")
    weight = probabilities.log()[:, None].repeat(1, 8) / 8
    hidden = torch.ones(100_000, 8, device="cuda")
    loss = distillation_head(
        hidden.clone().requires_grad_(), weight, hidden, weight, alpha=0.5, group="sample", group_size=2
    )
    drawn = loss.grad_fn.indices
    first = drawn[:, 0].bincount(minlength=4) / len(drawn)
    assert (first - probabilities).abs().max() < 0.01
    joint = (drawn[:, 0] * 4 + drawn[:, 1]).bincount(minlength=16).reshape(4, 4) / len(drawn)
    expected = probabilities[:, None] * probabilities[None, :] / (1 - probabilities[:, None])
    assert (joint - expected * (1 - torch.eye(4, device="cuda"))).abs().max() < 0.01


def test_second_backward_upstream_and_steal() -> None:
    inputs, group = case(64, 3001), groups_of(64, 3001)
    loss = distillation_head(**inputs, alpha=0.5, group=group)
    first = torch.autograd.grad(loss, inputs["student_weight"], retain_graph=True)[0].clone()
    (second,) = torch.autograd.grad(4 * loss, inputs["student_weight"])
    torch.testing.assert_close(second, 4 * first)


def test_a_float64_gradient_is_scaled_in_float64() -> None:
    inputs, group = case(8, 301, torch.float64), groups_of(8, 301)
    found = gradients(distillation_head(**inputs, alpha=0.5, group=group, rows=7) / 3, inputs)
    exact = gradients(plain(inputs, group, 0.5, "soft_target", None) / 3, inputs)
    assert max(errors(found, exact)) < 1e-12


def test_masked_chunks_and_nan_rows() -> None:
    inputs, group = case(96, 3001), groups_of(96, 3001)
    mask = torch.ones(96, dtype=torch.bool, device="cuda")
    mask[32:64] = False
    hidden = inputs["student_hidden"].detach().masked_fill(~mask[:, None], torch.nan).requires_grad_()
    teacher = inputs["teacher_hidden"].masked_fill(~mask[:, None], torch.nan)
    options: dict[str, Any] = {"alpha": 0.5, "chunk": 32, "row_mask": mask}
    for memory in ("fast", "lean"):
        loss = distillation_head(
            hidden, inputs["student_weight"], teacher, inputs["teacher_weight"], group=group, memory=memory, **options
        )
        weight_gradient, hidden_gradient = torch.autograd.grad(loss, [inputs["student_weight"], hidden])
        kept = {name: t[mask] if "hidden" in name else t for name, t in inputs.items()}
        expected = distillation_head(**kept, alpha=0.5, group=group[mask])
        torch.testing.assert_close(loss, expected)
        (expected_gradient,) = torch.autograd.grad(expected, inputs["student_weight"])
        assert errors([weight_gradient.double()], [expected_gradient.double()])[0] < 5e-3
        assert (hidden_gradient[~mask] == 0).all()


def test_compile_and_checkpoint_around_it() -> None:
    inputs, group = case(64, 3001), groups_of(64, 3001)

    def step(hidden: Tensor) -> Tensor:
        rest = {name: t for name, t in inputs.items() if name != "student_hidden"}
        return distillation_head(torch.tanh(hidden), **rest, alpha=0.5, group=group) * 2

    hidden = inputs["student_hidden"]
    (expected,) = torch.autograd.grad(step(hidden), hidden)
    (compiled,) = torch.autograd.grad(torch.compile(step)(hidden), hidden)
    (again,) = torch.autograd.grad(torch.utils.checkpoint.checkpoint(step, hidden, use_reentrant=False), hidden)
    assert errors([compiled.double()], [expected.double()])[0] < 5e-3
    torch.testing.assert_close(again, expected)


def test_no_host_synchronisation() -> None:
    inputs = case(64, 3001)
    mask = torch.rand(64, device="cuda") < 0.5
    rows = mask.sum()

    def step() -> None:
        loss = distillation_head(**inputs, alpha=0.5, group_size=8, row_mask=mask, rows=rows)
        (loss * 0.5).backward()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_offsets_beyond_31_bits() -> None:
    """Rows of one chunk whose logits take more than 2^31 entries."""
    inputs = case(8_400, 256_000, widths=(16, 16))
    group = torch.arange(16, device="cuda").expand(8_400, 16).contiguous()
    part = slice(8_390, 8_400)
    whole = distillation_head(**inputs, alpha=0.5, group=group, chunk=8_400, rows=1)
    (gradient,) = torch.autograd.grad(whole, inputs["student_hidden"])
    few = {name: t[part] if "hidden" in name else t for name, t in inputs.items()}
    (expected,) = torch.autograd.grad(
        distillation_head(**few, alpha=0.5, group=group[part], rows=1), inputs["student_hidden"]
    )
    torch.testing.assert_close(gradient[part], expected[part], rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pairs_head(dtype: torch.dtype) -> None:
    inputs, group = case(507, 4999, dtype), groups_of(507, 4999)

    def dense(given: Head) -> Tensor:
        s, t = (given[f"{m}_hidden"] @ given[f"{m}_weight"].mT for m in ("student", "teacher"))
        s, t = (x if x.dtype == torch.float64 else x.float() for x in (s, t))
        return group_relative(s.gather(-1, group), t.gather(-1, group)).sum() / 7

    def head() -> Tensor:
        teacher = {name: t for name, t in inputs.items() if "teacher" in name}
        return pairs_head(inputs["student_hidden"], inputs["student_weight"], group, **teacher, rows=7)

    no_worse_than_plain(inputs, head, dense)
    full = distillation_head(**inputs, alpha=1.0, group=group, rows=7)
    for a, b in zip(gradients(full, inputs), gradients(head(), inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 6.0, 50.0])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("rows", "candidates"), [(5, 507), (3, 3001)])
def test_all_pairs(rows: int, candidates: int, spread: float, ties: bool) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    s = spread * torch.randn(rows, candidates, generator=generator, device="cuda")
    t = 3 * torch.randn(rows, candidates, generator=generator, device="cuda")
    t = t.bfloat16().float() if ties else t
    mask = torch.rand(rows, candidates, generator=generator, device="cuda") < 0.9
    results = []
    for dtype, form in ((torch.float64, "torch"), (torch.float32, "torch"), (torch.float32, "auto")):
        student = s.to(dtype).requires_grad_()
        losses = all_pairs(student, t.to(dtype), mask=mask, implementation=form)
        results.append([losses.double(), torch.autograd.grad(losses.sum(), student)[0].double()])
    exact, theirs, ours = results
    for a, b in zip(errors(ours, exact), errors(theirs, exact), strict=True):
        assert a <= b + 1e-6, (errors(ours, exact), errors(theirs, exact))


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize(("rows", "vocabulary"), [(507, 123), (61, 49_157)])
def test_selected_log_probs(rows: int, vocabulary: int, softcap: float | None) -> None:
    inputs = case(rows, vocabulary)
    labels = torch.randint(vocabulary, (rows,), device="cuda")
    labels[::5] = -100

    def dense(given: Head) -> Tensor:
        scores = cap(given["student_hidden"] @ given["student_weight"].mT, softcap)
        every = (scores if scores.dtype == torch.float64 else scores.float()).log_softmax(-1)
        return torch.where(labels >= 0, every.gather(-1, labels.clamp_min(0)[:, None])[:, 0], 0.0).sum() / 7

    def head() -> Tensor:
        hidden, weight = inputs["student_hidden"], inputs["student_weight"]
        return selected_log_probs(hidden, weight, labels, softcap=softcap, chunk=64).sum() / 7

    no_worse_than_plain(inputs, head, dense)


def test_selected_log_probs_hold_one_chunk_of_logits() -> None:
    inputs = case(4096, 49_157)
    labels = torch.randint(49_157, (4096,), device="cuda")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    selected_log_probs(inputs["student_hidden"], inputs["student_weight"], labels, chunk=256).sum().backward()
    logits = 256 * 49_157 * 4
    # A chunk in float32, its gradient in 16 bits, and the weight's gradient in float32 and 16 bits.
    weights = inputs["student_weight"].numel() * 6
    assert torch.cuda.max_memory_allocated() - held < 1.6 * logits + weights + (8 << 20)
