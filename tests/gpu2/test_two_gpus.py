"""Two GPUs over NCCL: trainings and whole runs, copied and sharded, are those of one GPU. `make gpu2`.

Two GPUs split a batch into other shapes, so kernels round differently: limits are wider than on CPUs. Launches follow
each other, and each has a limit of its own. What takes the time are new Pythons: 16 s of imports for each launch were
seen, and again as many for pytest. `--basetemp FOLDER` keeps the launches' logs (*.log), whose lines begin with the
seconds since the launch began; `--timeout SECONDS` ends a test that hangs and prints where each process was.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from grkd import cli
from tests.distributed import _work
from tests.distributed._launch import FEW, accelerate, launch
from tests.distributed.test_run import assert_same_run, recipe
from tests.distributed.test_training import assert_same, works

pytestmark = [
    pytest.mark.gpu2,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
    pytest.mark.filterwarnings("ignore"),
]
ATOL = 1e-4
WAYS = {
    "fsdp": ["steps", "fused", "logged", "on_policy", "resumed", "lora", "reference"],
    "ddp": ["steps", "fused", "logged", "on_policy", "resumed", "sharded_teacher", "asked_unevenly"],
}


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of the chosen tests' work: WAY-NAME.pt in this folder; of a launch that failed, what
    came before."""
    folder = tmp_path_factory.mktemp("two")
    test = test_two_gpus_make_what_one_makes.__name__
    chosen = {item.name for item in request.session.items}
    ways = {way: [name for name in names if f"{test}[{way}-{name}]" in chosen] for way, names in WAYS.items()}
    ran = launch(folder / "two.log", "tests/distributed/_work.py", "cuda", str(folder), *works(ways))
    print(ran.printed[-6000:] if ran.status else "")
    return folder


@pytest.mark.parametrize(("way", "name"), [(way, name) for way, names in WAYS.items() for name in names])
def test_two_gpus_make_what_one_makes(way: str, name: str, found: Path, tmp_path: Path) -> None:
    two: dict[str, Any] = torch.load(found / f"{way}-{name}.pt", weights_only=True)
    assert_same(name, _work.WORK[name](tmp_path, "cuda"), two, atol=ATOL)


@pytest.mark.parametrize(
    ("dtype", "placement", "method"),
    [
        ("auto", "sharded", "fresh"),
        ("float32", "sharded", "fresh"),
        ("auto", "sharded", "kd"),
        ("auto", "whole", "fresh"),
    ],
)
def test_accelerate_launch_starts_a_run(
    dtype: str, placement: str, method: str, tmp_path: Path, tiny_teacher: Path, tiny_prompts: Path
) -> None:
    """The command of the guide: it ends, and each stage is whole. First as by default on GPUs, in 16 bits with sampled
    groups; then what tells why that may fail: float32, nothing sampled, a teacher that is not sharded.

    One method, four steps, no answers: the next test has more of each.
    """
    written = recipe(tmp_path, tiny_teacher, tiny_prompts, device="auto", placement=placement, batch=2)
    written.write_text(written.read_text().replace("dtype: float32", f"dtype: {dtype}"))
    few = FEW if method == "fresh" else [f"methods=[{method}]", *FEW[1:]]
    ran = accelerate(tmp_path / "accelerate.log", "run", str(written), *few, processes=2)
    assert ran.status == 0, ran.crashed() or ran.printed[-6000:]
    for stage in ("prepare", "respond", "score", f"train/{method}-seed0", f"evaluate/{method}-seed0"):
        assert (tmp_path / "run" / stage / "manifest.json").exists(), stage


def test_a_run_that_fails_and_is_resumed(tmp_path: Path, tiny_teacher: Path, tiny_prompts: Path) -> None:
    """Responses, scores, students, groups sampled in training, evaluation: FSDP2 for student and teacher."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    settings = {"device": "cuda", "placement": "sharded", "batch": 2}
    words = ["tests/distributed/_grkd.py", "run", str(recipe(two, tiny_teacher, tiny_prompts, **settings))]
    failed = launch(tmp_path / "failed.log", *words, WAY="fsdp", FAIL_AT="7")
    assert failed.status not in (0, -6), failed.printed[-6000:]
    said = [line.partition(" s  ")[2] for line in failed.printed.splitlines() if " s  grkd: " in line]
    assert said == ["grkd: error: process 1 cannot go on"], failed.printed[-6000:]
    alone = recipe(one, tiny_teacher, tiny_prompts, **settings | {"placement": "whole", "batch": 4})
    statuses: list[int] = []
    of_one = lambda: statuses.append(cli.main(["run", str(alone)]))  # noqa: E731
    ended = launch(tmp_path / "ended.log", *words, meanwhile=of_one, WAY="fsdp")
    assert ended.status == 0, ended.printed[-6000:]
    assert "resuming" in ended.printed
    assert statuses == [0]
    assert_same_run(one / "run", two / "run", atol=ATOL)
