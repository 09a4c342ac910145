"""What happens around the CUDA graphs, with a stand-in for them on the CPU: a replay does the captured step again.

tests/gpu/test_lockstep.py has the real ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grkd import objectives
from grkd.models import networks
from grkd.training.lockstep import graphs as lockstep_graphs
from grkd.training.lockstep import loop as lockstep
from grkd.training.lockstep.batches import DeviceExamples
from grkd.training.lockstep.loop import train_lockstep
from grkd.training.lockstep.student import Job, LockstepStudent, Plan


class Graph:
    """Keeps the last fixed step as what was captured."""

    last: Any = None

    def capture_begin(self) -> None: ...
    def capture_end(self) -> None:
        self.step = Graph.last

    def register_generator_state(self, generator: torch.Generator) -> None: ...
    def replay(self) -> None:
        self.step()


class Stream:
    """Also an event: there is nothing to wait for."""

    def record(self) -> None: ...
    def wait_event(self, event: object) -> None: ...


@pytest.fixture
def reads() -> dict[str, str]:
    return {"mode": "default"}


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch, reads: dict[str, str]) -> None:
    real = LockstepStudent.fixed_step

    def noted(self: LockstepStudent, batch: Any, weights: Any) -> None:
        Graph.last = lambda: real(self, batch, weights)
        real(self, batch, weights)

    monkeypatch.setattr(LockstepStudent, "fixed_step", noted)
    monkeypatch.setattr(lockstep, "graphs_run_on", lambda device: True)
    for name, stand_in in {
        "CUDAGraph": Graph,
        "Stream": Stream,
        "Event": Stream,
        "stream": lambda stream: nullcontext(),
        "current_stream": Stream,
        "synchronize": lambda: None,
        "set_sync_debug_mode": lambda mode: reads.update(mode=mode),
    }.items():
        monkeypatch.setattr(lockstep_graphs.torch.cuda, name, stand_in)


def build(seed: int) -> nn.Module:
    return networks.build("cnn", input_shape=(3, 8, 8), classes=5, options={"channels": [8]}, seed=seed)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([value.double().flatten() for value in module.state_dict().values()])


@contextmanager
def plain_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(lockstep, "graphs_run_on", lambda device: False)
        yield


def examples() -> DeviceExamples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return DeviceExamples(inputs=images, labels=torch.randint(5, (40,), generator=generator))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_warm_up_leaves_no_trace_and_every_batch_reaches_the_graphs(
    monkeypatch: pytest.MonkeyPatch, optimizer: Any, reads: dict[str, str]
) -> None:
    plan = Plan(epochs=3.0, batch_size=8, optimizer=optimizer, weight_decay=0.01, warmup=0.2, augment=True)
    jobs = [
        Job(name=name, objective=objectives.load(name, **options), seed=3, learning_rate=0.02)
        for name, options in (("kd", {}), ("grkd", {"pairs.group": "all"}), ("ce", {}))
    ]

    def stops(epoch: int, modules: Any) -> list[str]:
        return ["ce"] if epoch == 2 else []

    found = train_lockstep(jobs, examples(), build=build, plan=plan, teacher=build(9), watch=stops)
    with plain_steps(monkeypatch):
        expected = train_lockstep(jobs, examples(), build=build, plan=plan, teacher=build(9), watch=stops)
    for name, trained in found.items():
        # BatchNorm's running means and counts are among the weights: a trace of the warm-up would show there.
        torch.testing.assert_close(weights(trained.module), weights(expected[name].module), rtol=1e-4, atol=1e-6)
        assert trained.losses_nats == pytest.approx(expected[name].losses_nats, rel=1e-5)
        assert (trained.steps, trained.stopped) == (expected[name].steps, expected[name].stopped)
    assert found["ce"].stopped == 2
    assert reads["mode"] == "default"


def test_a_student_that_reads_on_the_host_trains_without_a_graph(
    monkeypatch: pytest.MonkeyPatch, reads: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    class Reading(objectives.Objective):
        def terms(self, batch: objectives.Batch) -> tuple[objectives.Term, ...]:
            if reads["mode"] == "error":
                raise RuntimeError("called a synchronizing CUDA operation")
            return objectives.load("kd").terms(batch)

    plan = Plan(epochs=2.0, batch_size=8, augment=True)
    jobs = [
        Job(name=name, objective=objective, seed=3, learning_rate=0.02)
        for name, objective in (("reading", Reading()), ("kd", objectives.load("kd")))
    ]
    found = train_lockstep(jobs, examples(), build=build, plan=plan, teacher=build(9))
    assert "reading: runs without a CUDA graph (RuntimeError: called a" in capsys.readouterr().err.replace("\n", " ")
    torch.testing.assert_close(weights(found["reading"].module), weights(found["kd"].module), rtol=1e-4, atol=1e-6)


def test_short_trainings_do_not_read_beyond_their_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(epochs=1.0, batch_size=40, augment=False)
    jobs = [Job(name="grkd", objective=objectives.load("grkd"), seed=3, learning_rate=0.02)]
    found = train_lockstep(jobs, examples(), build=build, plan=plan, teacher=build(9))
    assert (found["grkd"].steps, found["grkd"].failure) == (1, None)


def test_sampled_groups_are_those_of_plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(epochs=2.0, batch_size=8, augment=True)
    sampled = objectives.load("grkd", **{"pairs.group": "sample", "pairs.group_size": 2})
    jobs = [Job(name="sampled", objective=sampled, seed=3, learning_rate=0.02)]
    found = train_lockstep(jobs, examples(), build=build, plan=plan, teacher=build(9))["sampled"]
    with plain_steps(monkeypatch):
        expected = train_lockstep(jobs, examples(), build=build, plan=plan, teacher=build(9))["sampled"]
    assert found.losses_nats == pytest.approx(expected.losses_nats, rel=1e-5)
    torch.testing.assert_close(weights(found.module), weights(expected.module), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d])
def test_dropout_in_a_graph_or_step_by_step_leaves_students_what_they_are_alone(
    kind: type[nn.Module], capsys: pytest.CaptureFixture[str]
) -> None:
    def dropping(seed: int) -> nn.Module:
        return nn.Sequential(kind(0.3), build(seed))

    plan = Plan(epochs=2.0, batch_size=8, augment=True)
    jobs = [
        Job(name=name, objective=objectives.load("kd"), seed=seed, learning_rate=0.02)
        for name, seed in (("first", 3), ("second", 4))
    ]
    together = train_lockstep(jobs, examples(), build=dropping, plan=plan, teacher=build(9))
    said = " ".join(capsys.readouterr().err.split())
    # Whole channels are dropped by the device's common state: a graph would mix up the students' draws.
    plain = kind is nn.Dropout2d
    assert said.count("without a CUDA graph") == plain
    assert ("first, second: without a CUDA graph (dropout is" in said) == plain
    for one in jobs:
        torch.manual_seed(99)  # what else draws does not matter
        alone = train_lockstep([one], examples(), build=dropping, plan=plan, teacher=build(9))[one.name]
        assert alone.losses_nats == together[one.name].losses_nats
        assert torch.equal(weights(alone.module), weights(together[one.name].module))
