"""Two GPUs over NCCL: trainings and whole runs, copied and sharded, are those of one GPU. `make gpu2`.

Two GPUs split a batch into other shapes, so kernels round differently: limits are wider than on CPUs. Launches follow
each other, and each has a limit of its own. What takes the time are new Pythons: 16 s of imports for each launch were
seen, and again as many for pytest. `--basetemp FOLDER` keeps the launches' logs (*.log), whose lines begin with the
seconds since the launch began; `--timeout SECONDS` ends a test that hangs and prints where each process was.
"""

import json
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
    "fsdp": ["steps", "fused", "logged", "compiled", "on_policy", "resumed", "lora", "reference"],
    "ddp": ["steps", "fused", "logged", "compiled", "on_policy", "resumed", "sharded_teacher", "asked_unevenly"],
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
    ("way", "dtype", "placement"),
    [("fsdp", "auto", "sharded"), ("fsdp", "float32", "whole"), ("ddp", "auto", "whole")],
)
def test_accelerate_launch_starts_a_run(
    way: str, dtype: str, placement: str, tmp_path: Path, tiny_teacher: Path, tiny_prompts: Path
) -> None:
    """The commands of the guide: they end, each stage is whole, and the processes talk over NCCL.

    The first is what GPUs do by default: 16 bits, sampled groups. One method, four steps, no answers: the next test has
    more of each.
    """
    written = recipe(tmp_path, tiny_teacher, tiny_prompts, device="auto", placement=placement, batch=2)
    written.write_text(written.read_text().replace("dtype: float32", f"dtype: {dtype}"))
    ran = accelerate(tmp_path / "accelerate.log", "run", str(written), *FEW, processes=2, way=way)
    assert ran.status == 0, ran.crashed() or ran.printed[-6000:]
    for stage in ("prepare", "respond", "score", "train/fresh-seed0", "evaluate/fresh-seed0"):
        assert (tmp_path / "run" / stage / "manifest.json").exists(), stage
    told = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert (told["processes"], "nccl" in told["backend"]) == (2, True)


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
