"""The distillation head, the pairs-only head and all pairs beside their peers, on a CUDA device.

    python -m benchmarks.kernels [--date YYYY-MM-DD] [--only head|pairs] [--out FILE]

Rows of the result: case, impl, ms (median of interleaved runs, forward + backward), peak_mib (beyond the inputs),
floor_ms (head: the four bare matrix products; pairs: one reciprocal a pair), grad_error (relative, against float64).
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._measure import about, interleaved_ms, peak_mib, relative_error
from benchmarks._peers import available
from grkd.kernels import all_pairs, distillation_head, pairs_head
from grkd.losses import group_relative

RESULTS = Path(__file__).parent / "results"
ROWS, GROUP = 8192, 16
# student width, teacher width, vocabulary, final logit softcap
SHAPES: dict[str, tuple[int, int, int, float | None]] = {
    "gemma 9B->2B": (2304, 3584, 256_000, 30.0),
    "llama 8B->3B": (3072, 4096, 128_256, None),
}
PAIRS = ((256, 1_000), (128, 10_000), (64, 21_841))
# One reciprocal a pair on an H100's special function units.
PAIRS_A_SECOND = 3.7e12
# Rows of the comparison with float64.
CHECKED = 512


class Lm:
    """Random hidden states and lm_head weights of one shape; scores of a trained model's size."""

    def __init__(self, shape: tuple[int, int, int, float | None]) -> None:
        student, teacher, vocabulary, self.cap = shape
        generator = torch.Generator("cuda").manual_seed(0)

        def draw(rows: int, width: int, size: float) -> Tensor:
            return (size * torch.randn(rows, width, generator=generator, device="cuda")).bfloat16()

        self.hidden = draw(ROWS, student, 1.0).requires_grad_()
        self.weight = draw(vocabulary, student, 2.5 * student**-0.5).requires_grad_()
        self.teacher = (draw(ROWS, teacher, 1.0), draw(vocabulary, teacher, 3.0 * teacher**-0.5))

    def step(self, head: Callable[..., Tensor], rows: int = ROWS) -> Callable[[], None]:
        """Forward and backward of one head, gradients left in .grad."""

        def run() -> None:
            self.hidden.grad = self.weight.grad = None
            head(self.hidden[:rows], self.weight, self.teacher[0][:rows], self.teacher[1]).backward()

        return run

    def products(self) -> None:
        """The four matrix products that no head can do without."""
        with torch.no_grad():
            student = self.hidden @ self.weight.mT
            self.teacher[0] @ self.teacher[1].mT
            student @ self.weight
            torch.mm(student.mT, self.hidden, out_dtype=torch.float32)


def ours(lm: Lm, **options: Any) -> Callable[..., Tensor]:
    return partial(distillation_head, student_softcap=lm.cap, teacher_softcap=lm.cap, **options)


# Sum over rows of what a head minimises, from both scores and the rows' groups.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def exact_soft(student: Tensor, teacher: Tensor, group: Tensor) -> Tensor:
    return -(teacher.softmax(-1) * student.log_softmax(-1)).sum()


def exact_pairs(student: Tensor, teacher: Tensor, group: Tensor) -> Tensor:
    return group_relative(student.gather(-1, group), teacher.gather(-1, group)).sum()


def exact_both(student: Tensor, teacher: Tensor, group: Tensor) -> Tensor:
    return 0.5 * exact_soft(student, teacher, group) + 0.5 * exact_pairs(student, teacher, group)


def exact_jsd(student: Tensor, teacher: Tensor, group: Tensor) -> Tensor:
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    mixture = torch.logaddexp(s, t) - math.log(2)
    return 0.5 * (t.exp() * (t - mixture) + s.exp() * (s - mixture)).sum()


def exact_gradients(lm: Lm, loss: Loss, group: Tensor, cap: float | None) -> tuple[Tensor, Tensor]:
    """Gradients of hidden states and weight in float64 over CHECKED rows, 64 rows at a time."""
    weight = lm.weight.detach().double()
    hidden_gradient = torch.empty(CHECKED, weight.shape[1], dtype=torch.float64, device="cuda")
    weight_gradient = torch.zeros_like(weight)
    for start in range(0, CHECKED, 64):
        part = slice(start, start + 64)
        teacher = torch.cat([lm.teacher[0][part].double() @ w.double().mT for w in lm.teacher[1].split(32_768)], 1)
        raw = (lm.hidden.detach()[part].double() @ weight.mT).requires_grad_()
        student = raw if cap is None else cap * torch.tanh(raw / cap)
        teacher = teacher if cap is None else cap * torch.tanh(teacher / cap)
        (slope,) = torch.autograd.grad(loss(student, teacher, group[part]) / CHECKED, raw)
        hidden_gradient[part] = slope @ weight
        weight_gradient += slope.mT @ lm.hidden.detach()[part].double()
    return hidden_gradient, weight_gradient


def grad_error(lm: Lm, head: Callable[..., Tensor], exact: tuple[Tensor, Tensor]) -> float:
    """The larger of the two gradients' relative errors."""
    lm.step(head, CHECKED)()
    assert lm.hidden.grad is not None
    assert lm.weight.grad is not None
    return max(relative_error(lm.hidden.grad[:CHECKED], exact[0]), relative_error(lm.weight.grad, exact[1]))


def measured(
    case: str,
    steps: dict[str, Callable[[], Any]],
    floor_ms: float | None,
    errors: dict[str, float | None],
    repeats: int,
    warmup: int,
) -> list[dict[str, Any]]:
    """Rows of one case; a step that runs out of memory is left out and named."""
    working: dict[str, Callable[[], Any]] = {}
    peaks = {}
    for name, step in steps.items():
        try:
            step()
            peaks[name] = peak_mib(step)
            working[name] = step
        except torch.OutOfMemoryError:
            print(f"{case} | {name}: out of memory", file=sys.stderr)
        torch.cuda.empty_cache()
    times = interleaved_ms(working, repeats=repeats, warmup=warmup)
    floor = times.pop("floor") if floor_ms is None else floor_ms
    return [
        {
            "case": case,
            "impl": name,
            "ms": round(ms, 3),
            "peak_mib": round(peaks[name], 1),
            "floor_ms": round(floor, 4),
            "grad_error": errors.get(name),
        }
        for name, ms in times.items()
    ]


def head_rows(name: str) -> list[dict[str, Any]]:
    """One paper shape: our head in its forms, the pairs-only head and the peers."""
    lm = Lm(SHAPES[name])
    group = torch.randint(0, len(lm.weight), (ROWS, GROUP), device="cuda", generator=torch.Generator("cuda"))
    sampled = {"alpha": 0.5, "group": "sample", "group_size": GROUP}
    heads: dict[str, Callable[..., Tensor]] = {
        "grkd soft": ours(lm, alpha=0.0),
        "grkd soft + group of 16": ours(lm, **sampled),
        "grkd soft, chunk 2048": ours(lm, alpha=0.0, chunk=2048),
        "grkd soft + group of 16, chunk 2048": ours(lm, **sampled, chunk=2048),
        "grkd soft + group of 16, lean": ours(lm, **sampled, memory="lean"),
        "grkd jsd": ours(lm, alpha=0.0, divergence="jsd"),
    }
    peers = available()
    for peer, head in peers.items():
        heads[peer] = partial(_without_keywords, head, lm.cap)
    heads["grkd pairs only, group of 16"] = partial(_pairs_only, lm, group)
    errors = head_errors(lm, heads, group)
    steps: dict[str, Callable[[], Any]] = {"floor": lm.products}
    steps |= {impl: lm.step(head) for impl, head in heads.items()}
    return measured(f"head, {name}", steps, None, errors, repeats=7, warmup=1)


def head_errors(lm: Lm, heads: dict[str, Callable[..., Tensor]], group: Tensor) -> dict[str, float | None]:
    """Gradient errors by implementation; each against float64 of what it computes (Liger: no softcap)."""
    fixed: dict[str, dict[str, Any]] = {
        "grkd soft + group of 16": {},
        "grkd soft + group of 16, chunk 2048": {"chunk": 256},
        "grkd soft + group of 16, lean": {"memory": "lean"},
    }
    for impl, more in fixed.items():
        heads = {**heads, impl: partial(_given_group, lm, group, more)}
    errors: dict[str, float | None] = {}
    others = ["grkd jsd", "grkd pairs only, group of 16"]
    plain = [impl for impl in heads if impl not in fixed and impl not in others]
    jobs: list[tuple[Loss, float | None, list[str]]] = [
        (exact_both, lm.cap, list(fixed)),
        (exact_soft, lm.cap, [impl for impl in plain if not impl.startswith("liger")]),
        (exact_soft, None, [impl for impl in plain if impl.startswith("liger")]),
        (exact_jsd, lm.cap, others[:1]),
        (exact_pairs, lm.cap, others[1:]),
    ]
    for loss, cap, impls in jobs:
        exact = exact_gradients(lm, loss, group, cap)
        for impl in impls:
            errors[impl] = grad_error(lm, heads[impl], exact)
        del exact
        torch.cuda.empty_cache()
    return errors


def _pairs_only(lm: Lm, group: Tensor, *inputs: Tensor) -> Tensor:
    hidden, weight, teacher_hidden, teacher_weight = inputs
    teacher = {"teacher_hidden": teacher_hidden, "teacher_weight": teacher_weight}
    caps = {"student_softcap": lm.cap, "teacher_softcap": lm.cap}
    return pairs_head(hidden, weight, group[: len(hidden)], **teacher, **caps)


def _given_group(lm: Lm, group: Tensor, more: dict[str, Any], *inputs: Tensor) -> Tensor:
    return ours(lm, alpha=0.5, group=group[: len(inputs[0])], **more)(*inputs)


def _without_keywords(head: Callable[..., Tensor], cap: float | None, *inputs: Tensor) -> Tensor:
    return head(*inputs, cap)


def dense_pairs(student: Tensor, teacher: Tensor) -> Tensor:
    """All pairs as one [rows, candidates, candidates] expression."""
    ordered = teacher[:, :, None] > teacher[:, None, :]
    loss = torch.nn.functional.softplus(student[:, None, :] - student[:, :, None])
    return torch.where(ordered, loss, 0.0).sum((1, 2)) / ordered.sum((1, 2)).clamp_min(1)


def pair_rows(rows: int, candidates: int) -> list[dict[str, Any]]:
    """One (rows, candidates): ours at a narrow and a wide range of scores, torch.compile, and the tiled torch form."""
    generator = torch.Generator("cuda").manual_seed(0)
    teacher = 3 * torch.randn(rows, candidates, generator=generator, device="cuda")
    narrow = (2 * torch.randn(rows, candidates, generator=generator, device="cuda")).requires_grad_()
    wide = (narrow.detach() * 20).requires_grad_()
    compiled = torch.compile(dense_pairs)

    def step(loss: Callable[[Tensor, Tensor], Tensor], student: Tensor) -> Callable[[], None]:
        def run() -> None:
            student.grad = None
            loss(student, teacher).mean().backward()

        return run

    impls: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor]] = {
        "grkd": (all_pairs, narrow),
        "grkd, scores 20x wider": (all_pairs, wide),
        "torch, tiled": (group_relative, narrow),
        "torch.compile": (compiled, narrow),
    }
    some = slice(0, 4)
    errors: dict[str, float | None] = {}
    for name, (loss, student) in impls.items():
        leaf, exact = student.detach()[some].clone().requires_grad_(), student.detach()[some].double().requires_grad_()
        (expected,) = torch.autograd.grad(group_relative(exact, teacher[some].double()).mean(), exact)
        (found,) = torch.autograd.grad(loss(leaf, teacher[some]).mean(), leaf)
        errors[name] = relative_error(found, expected)
        torch.cuda.empty_cache()
    steps = {name: step(loss, student) for name, (loss, student) in impls.items()}
    floor_ms = rows * candidates * (candidates - 1) / 2 / PAIRS_A_SECOND * 1e3
    return measured(f"all pairs, {rows} x {candidates}", steps, floor_ms, errors, repeats=3, warmup=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--date")
    parser.add_argument("--only", choices=("head", "pairs"))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("the kernels' benchmark needs a CUDA device")
    only = f" --only {arguments.only}" if arguments.only else ""
    result = about(arguments.date, f"python -m benchmarks.kernels{only}")
    rows: list[dict[str, Any]] = []
    jobs: list[Callable[[], list[dict[str, Any]]]] = []
    if arguments.only != "pairs":
        jobs += [partial(head_rows, name) for name in SHAPES]
    if arguments.only != "head":
        jobs += [partial(pair_rows, *shape) for shape in PAIRS]
    out = arguments.out or RESULTS / f"{result['date']}-kernels.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        found = job()
        rows += found
        for row in found:
            print(row, flush=True)
        torch.cuda.empty_cache()
        torch._dynamo.reset()
        out.write_text(json.dumps({**result, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
