"""On a GPU: a student's CUDA graph repeats what the plain step does, for every method of the classification recipes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from grkd import objectives
from grkd.models import networks
from grkd.models.residual import residual
from grkd.training.lockstep.batches import DeviceExamples
from grkd.training.lockstep.loop import predict, train_lockstep
from grkd.training.lockstep.student import Job, Plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),
]

CLASSES = 20
METHODS = {
    "ce": ("ce", {}),
    "kd": ("kd", {"label_weight": 1.0}),
    "kd-z": ("kd", {"standardize": True}),
    "dkd": ("dkd", {}),
    "dist": ("dist", {}),
    "rkd": ("rkd", {"angle_weight": 0.0}),
    "pld": ("pld", {}),
    "grkd": ("grkd", {"pairs.normalize": "candidates"}),
    "grkd-advantage": ("grkd", {"ranking": [{"part": "contrib.advantage", "weight": 4.0}], "alpha_shape": "constant"}),
    "grkd-classes": ("grkd", {"preset": "classes"}),
    "grkd-top": ("grkd", {"pairs.group": "top", "pairs.group_size": 8}),
}

SAMPLED = objectives.load("grkd", **{"pairs.group": "sample", "pairs.group_size": 8})


def build(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return networks.build("cnn", input_shape=(3, 32, 32), classes=CLASSES, options={"channels": [8, 16]}, seed=seed)


def examples() -> DeviceExamples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (256, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (256,), generator=generator)
    return DeviceExamples(inputs=images.cuda(), labels=labels.cuda())


def teacher() -> nn.Module:
    torch.manual_seed(7)
    return residual(input_shape=(3, 32, 32), classes=CLASSES, width=8, blocks=1)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([value.detach().double().flatten().cpu() for value in module.parameters()])


PLAN = Plan(epochs=3.0, batch_size=64, weight_decay=5e-4, warmup=0.2, augment=True, max_grad_norm=5.0)


def test_graphs_do_what_plain_steps_do(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        Job(name=name, objective=objectives.load(method, **options), seed=1, learning_rate=0.02)
        for name, (method, options) in METHODS.items()
    ]
    found = {
        graphs: train_lockstep(jobs, examples(), build=build, plan=replace(PLAN, graphs=graphs), teacher=teacher())
        for graphs in (True, False)
    }
    assert "without a CUDA graph" not in capsys.readouterr().err  # none of these methods needs the slow way
    for name in METHODS:
        assert found[True][name].failure is None, name
        start = weights(build(1).cuda())
        moved = (weights(found[False][name].module) - start).norm()
        apart = (weights(found[True][name].module) - weights(found[False][name].module)).norm()
        assert apart < 0.02 * moved, name  # atomics and convolutions differ in rounding, and twelve steps multiply it
        for ours, plain in zip(found[True][name].losses_nats, found[False][name].losses_nats, strict=True):
            assert ours == pytest.approx(plain, rel=2e-3), name


def test_sampled_groups_and_adamw_run_as_graphs_and_an_objective_that_reads_the_host_falls_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Reading(objectives.Objective):
        def terms(self, batch: objectives.Batch) -> tuple[objectives.Term, ...]:
            assert float(batch.student.sum()) < 1e9
            return objectives.load("kd").terms(batch)

    jobs = [
        Job(
            name="sample",
            objective=SAMPLED,
            seed=0,
            learning_rate=1e-3,
        ),
        Job(name="reading", objective=Reading(), seed=0, learning_rate=1e-3),
        Job(name="kd", objective=objectives.load("kd"), seed=0, learning_rate=1e-3),
    ]
    plan = replace(PLAN, optimizer="adamw", bf16=True)
    found = train_lockstep(jobs, examples(), build=build, plan=plan, teacher=teacher())
    said = capsys.readouterr().err
    assert "reading: runs without a CUDA graph" in said
    assert "sample: runs" not in said
    assert "kd: runs" not in said
    for name, trained in found.items():
        assert trained.failure is None, name
        assert trained.losses_nats[-1] < trained.losses_nats[0], name
    # The same loss and data: the student that fell back is the one with a graph, up to rounding.
    assert found["reading"].losses_nats[-1] == pytest.approx(found["kd"].losses_nats[-1], rel=2e-2)


def test_watched_students_are_whole_between_epochs() -> None:
    seen = []

    def watch(epoch: int, modules: dict[str, nn.Module]) -> list[str]:
        seen.append(predict(modules["a"], examples().inputs).softmax(-1).sum().item())
        return ["b"] if epoch == 1 else []

    jobs = [Job(name=name, objective=objectives.load("kd"), seed=0, learning_rate=0.02) for name in ("a", "b")]
    found = train_lockstep(jobs, examples(), build=build, plan=PLAN, teacher=teacher(), watch=watch)
    assert seen == pytest.approx([256.0, 256.0])
    assert (found["a"].steps, found["b"].steps) == (12, 4)
    alone = train_lockstep(jobs[:1], examples(), build=build, plan=PLAN, teacher=teacher())
    assert found["a"].losses_nats == pytest.approx(alone["a"].losses_nats, rel=2e-3)


def test_a_student_with_dropout_and_one_with_sampled_groups_are_what_they_are_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def dropping(seed: int) -> nn.Module:
        return nn.Sequential(nn.Dropout(0.3), build(seed))

    def dropping_channels(seed: int) -> nn.Module:
        return nn.Sequential(nn.Dropout2d(0.3), build(seed))

    objective = {
        "kd": objectives.load("kd"),
        "sample": SAMPLED,
    }
    cases = (
        (dropping, ("kd", "kd"), False),
        (dropping_channels, ("kd", "kd"), True),
        (build, ("sample", "kd"), False),
    )
    for network, names, said in cases:
        jobs = [
            Job(name=f"{name}-{seed}", objective=objective[name], seed=seed, learning_rate=0.02)
            for seed, name in enumerate(names)
        ]
        capsys.readouterr()  # what the case before has said
        together = train_lockstep(jobs, examples(), build=network, plan=PLAN, teacher=teacher())
        assert ("without a CUDA graph (dropout" in capsys.readouterr().err) == said
        for one in jobs:
            torch.manual_seed(99)
            alone = train_lockstep([one], examples(), build=network, plan=PLAN, teacher=teacher())[one.name]
            assert alone.losses_nats == pytest.approx(together[one.name].losses_nats, rel=2e-3), one.name
