"""Lock-step training: a student is what it would be alone, and what a plain loop makes of it."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch, Features, Objective, Term
from grkd.training.lockstep import student as lockstep_student
from grkd.training.lockstep.batches import DeviceBatches, DeviceExamples
from grkd.training.lockstep.dropout import OwnDropout, with_own_dropout
from grkd.training.lockstep.head import WideHead, with_wide_head
from grkd.training.lockstep.loop import predict, train_lockstep
from grkd.training.lockstep.student import Job, LockstepStudent, Plan, term_weights

CLASSES = 4


def network(seed: int, *, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(dropout), nn.Linear(16, CLASSES),
    )  # fmt: skip


@pytest.fixture
def examples() -> DeviceExamples:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (50, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return DeviceExamples(inputs=images, labels=torch.randint(CLASSES, (50,), generator=generator))


def job(name: str, method: str = "kd", *, seed: int = 0, learning_rate: float = 0.1, **options: object) -> Job:
    return Job(name=name, objective=objectives.load(method, **options), seed=seed, learning_rate=learning_rate)


PLAN = Plan(epochs=2.0, batch_size=16, weight_decay=1e-2, warmup=0.2, augment=True)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


def test_a_student_among_others_is_the_student_alone(examples: DeviceExamples) -> None:
    jobs = [
        job("kd"),
        job("ce", "ce", seed=1),
        job("sampled", "grkd", **{"pairs.group": "sample", "pairs.group_size": 2}),
        job("again", "grkd", seed=2, learning_rate=0.03),
    ]
    build = lambda seed: network(seed, dropout=0.3)  # noqa: E731
    together = train_lockstep(jobs, examples, build=build, plan=PLAN, teacher=network(9))
    for one in jobs:
        alone = train_lockstep([one], examples, build=build, plan=PLAN, teacher=network(9))[one.name]
        assert torch.equal(weights(alone.module), weights(together[one.name].module)), one.name
        assert alone.losses_nats == together[one.name].losses_nats
        assert alone.steps == together[one.name].steps == 6
    assert not torch.equal(weights(together["kd"].module), weights(together["again"].module))


def test_a_student_is_what_a_plain_loop_makes_of_it(examples: DeviceExamples) -> None:
    """kd with a live teacher and labels, SGD with Nesterov's momentum, cosine with warm-up, in a hand-written loop."""
    found = train_lockstep(
        [job("kd", temperature=2.0, t_squared=True, label_weight=0.5, seed=3)],
        examples, build=network, plan=replace(PLAN, max_grad_norm=0.3), teacher=network(9),
    )["kd"]  # fmt: skip
    student, teacher = network(3), network(9).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=1e-2)
    rates = [0.05, 0.1, 0.1, *(0.05 * (1 + torch.cos(torch.tensor(torch.pi * i / 4)).item()) for i in (1, 2, 3))]
    batches = DeviceBatches(examples, batch_size=16, augment=True, seed=0)
    losses = []
    for step, batch in enumerate([*batches.epoch(), *batches.epoch()]):
        logits, target = student(batch.inputs), teacher(batch.inputs).detach()
        soft = -((target / 2).softmax(-1) * (logits / 2).log_softmax(-1)).sum(-1) * 4
        loss = (soft + 0.5 * functional.cross_entropy(logits, batch.labels, reduction="none")).sum() / 16
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 0.3)
        optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(weights(found.module), weights(student), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.tensor(found.losses_nats), torch.tensor(losses).view(2, 3).mean(-1))


@pytest.mark.parametrize(
    ("method", "options"),
    [("kd", {}), ("ce", {}), ("grkd", {"alpha_shape": "linear", "label_weight": 0.3}), ("dkd", {"warmup": 0.4})],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_step_that_a_graph_repeats_is_the_step(
    examples: DeviceExamples, method: str, options: dict[str, object], optimizer: str
) -> None:
    """fixed_step reads progress and learning rate from tables: the same weights as step, up to rounding."""
    plan = replace(PLAN, optimizer=optimizer, max_grad_norm=1.0)
    batches = list(DeviceBatches(examples, batch_size=16, augment=True, seed=0).epoch())
    batches = [replace(batch, teacher_scores=network(9)(batch.inputs).detach()) for batch in batches]
    one, other = (
        LockstepStudent(job("a", method, **options), network, plan, steps=3, device=torch.device("cpu"))
        for _ in range(2)
    )
    table = term_weights(one.job.objective, classes=CLASSES, steps=3)
    assert table is not None
    for number, batch in enumerate(batches):
        one.step(batch, number)
        other.fixed_step(batch, table)
    torch.testing.assert_close(weights(one.module), weights(other.module), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one.loss_sum, other.loss_sum)


def test_weights_of_terms_at_every_step() -> None:
    table = term_weights(objectives.load("grkd", **{"pairs.weight": 3.0}), classes=200, steps=5)
    assert table is not None
    torch.testing.assert_close(table, torch.tensor([[3 * a, 1 - a] for a in (0.0, 0.25, 0.5, 0.75, 1.0)]))


@pytest.mark.parametrize(
    ("method", "options", "most"),
    [("grkd", {"pairs.weight": 3.0}, 20), ("dkd", {"warmup": 0.13}, 80), ("grkd", {"alpha_shape": "cosine"}, 999)],
)
@pytest.mark.parametrize("steps", [1, 2, 3, 300])
def test_the_table_is_what_the_objective_says_at_every_step_and_mostly_asks_few(
    monkeypatch: pytest.MonkeyPatch, method: str, options: dict[str, object], most: int, steps: int
) -> None:
    asked = []
    real = lockstep_student._terms_at
    monkeypatch.setattr(lockstep_student, "_terms_at", lambda *given: asked.append(given) or real(*given))
    term_weights.cache_clear()
    objective = objectives.load(method, **options)
    table = term_weights(objective, classes=4, steps=steps)
    assert table is not None
    assert len(asked) <= most
    expected = [
        [term.weight for term in real(objective, 4, step / (steps - 1) if steps > 1 else 0.0)] for step in range(steps)
    ]
    torch.testing.assert_close(table, torch.tensor(expected))


def test_an_objective_whose_formula_changes_has_no_table() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Colder(Objective):
        def terms(self, batch: Batch) -> tuple[Term, ...]:
            rows = (batch.student / (1 + batch.progress)).logsumexp(-1)
            return (Term(name="colder", weight=1.0, rows=rows, counted=batch.counted()),)

    assert term_weights(Colder(), classes=3, steps=4) is None


def test_features_of_both_reach_the_method(examples: DeviceExamples) -> None:
    rkd = job("rkd", "rkd", angle_weight=0.0)
    found = train_lockstep([rkd], examples, build=network, plan=PLAN, teacher=network(9))["rkd"]
    assert found.failure is None
    # By hand: what the last layer of each reads.
    batch = next(DeviceBatches(examples, batch_size=16, augment=True, seed=0).epoch())
    student = LockstepStudent(rkd, network, PLAN, steps=1, device=torch.device("cpu"))
    teacher = network(9).eval()
    with torch.no_grad():
        said = replace(batch, teacher_scores=teacher(batch.inputs), teacher_features=teacher[:-1](batch.inputs))
    terms = student.terms(said, 0.0)
    expected = objectives.load("rkd", angle_weight=0.0).terms(
        Batch(
            student=network(0)(batch.inputs), teacher=said.teacher_scores, labels=batch.labels,
            features=Features(student=network(0)[:-1](batch.inputs), teacher=said.teacher_features),
        )
    )  # fmt: skip
    torch.testing.assert_close(terms[0].rows, expected[0].rows)


def test_a_failing_student_leaves_the_others(examples: DeviceExamples) -> None:
    jobs = [job("kd"), job("rkd", "rkd")]
    inputs = replace(examples, teacher_scores=torch.randn(50, CLASSES, generator=torch.Generator().manual_seed(0)))
    found = train_lockstep(jobs, inputs, build=network, plan=PLAN)
    assert "features" in (found["rkd"].failure or "")
    assert found["kd"].failure is None
    assert found["kd"].steps == 6


def test_watch_stops_students_after_an_epoch(examples: DeviceExamples) -> None:
    seen = []

    def watch(epoch: int, modules: dict[str, nn.Module]) -> list[str]:
        seen.append((epoch, sorted(modules)))
        return ["b"] if epoch == 1 else []

    plan = replace(PLAN, epochs=3.0)
    found = train_lockstep([job("a"), job("b")], examples, build=network, plan=plan, teacher=network(9), watch=watch)
    assert seen == [(1, ["a", "b"]), (2, ["a"])]  # not after the last epoch: that is the result
    assert (found["a"].stopped, found["b"].stopped) == (None, 1)
    assert (found["a"].steps, found["b"].steps) == (9, 3)


def test_methods_that_do_not_fit_are_refused(examples: DeviceExamples) -> None:
    with pytest.raises(UserError, match="kd: the method needs a teacher"):
        train_lockstep([job("kd")], examples, build=network, plan=PLAN)
    with pytest.raises(UserError, match="dpo: a method on whole responses"):
        train_lockstep([job("dpo", "dpo")], examples, build=network, plan=PLAN, teacher=network(9))
    with pytest.raises(UserError, match="gkd: a classifier writes no responses; set on_policy_fraction: 0"):
        train_lockstep([job("gkd", "gkd")], examples, build=network, plan=PLAN, teacher=network(9))


def test_the_head_stays_in_full_precision_under_autocast() -> None:
    module, head = with_wide_head(nn.Sequential(nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 3))))
    assert isinstance(head, WideHead)
    assert sorted(module.state_dict()) == ["0.bias", "0.weight", "1.0.bias", "1.0.weight"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = module(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
    assert scores.dtype == torch.float32
    assert head.read is not None
    assert head.read.dtype == torch.bfloat16
    torch.testing.assert_close(scores, functional.linear(head.read.float(), head.weight, head.bias))


def test_predictions_are_in_eval_mode_and_leave_the_module_as_it_was(examples: DeviceExamples) -> None:
    module = network(0, dropout=0.5)
    inputs = examples.inputs.float() / 127.5 - 1
    torch.testing.assert_close(predict(module, examples.inputs, batch_size=7), network(0).eval()(inputs).detach())
    assert module.training


def test_dropout_of_its_own_is_dropout() -> None:
    """Values, share and gradient of nn.Dropout; the common random state is neither read nor moved."""
    module = with_own_dropout(
        nn.Sequential(nn.Dropout(0.25), nn.Sequential(nn.Dropout(0.0), nn.Dropout2d(0.5))), generator_of(1)
    )
    own, (none, channels) = module[0], module[1]
    assert isinstance(own, OwnDropout)
    assert (type(none), type(channels)) == (nn.Dropout, nn.Dropout2d)
    inputs = torch.full((200, 100), 3.0, requires_grad=True)
    before = torch.get_rng_state()
    found = own(inputs)
    assert torch.equal(torch.get_rng_state(), before)
    kept = found != 0
    assert found[kept].unique().tolist() == [4.0]  # 3 / (1 - 1/4)
    assert 1 - kept.float().mean().item() == pytest.approx(0.25, abs=0.01)  # 20,000 draws: 3 deviations
    (gradient,) = torch.autograd.grad(found.sum(), inputs)
    torch.testing.assert_close(gradient, kept / 0.75)
    assert not torch.equal(own(inputs), found)  # drawn anew
    again = with_own_dropout(nn.Dropout(0.25), generator_of(1))
    assert torch.equal(again(inputs), found)
    assert own.eval()(inputs) is inputs


def generator_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
