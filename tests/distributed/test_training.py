"""Trainings by two processes, copied (DDP) and sharded (FSDP2) students: the same as by one process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from grkd.models.shard import in_turns, is_sharded, shard
from tests._forked import on_ranks
from tests.distributed import _work

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
    pytest.mark.filterwarnings("ignore"),
]
WAYS = {
    "fsdp": ["steps", "fused", "packed", "logged", "compiled", "on_policy", "resumed", "lora", "held_out", "reference"],
    "ddp": ["steps", "logged", "compiled", "resumed", "sharded_teacher", "asked_unevenly", "agreement", "by_vllm"],
}


def works(ways: Mapping[str, Sequence[str]]) -> list[str]:
    """Words of _work.work: all of it in one launch, since starting processes takes longest."""
    return [word for way, names in ways.items() for word in (way, *names)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made: WAY-NAME.pt in this folder."""
    folder = tmp_path_factory.mktemp("two")
    on_ranks(lambda: _work.work("cpu", folder, works(WAYS)), folder / "ranks")
    return folder


@pytest.mark.parametrize(("way", "name"), [(way, name) for way, names in WAYS.items() for name in names])
def test_two_processes_make_what_one_makes(way: str, name: str, found: Path, tmp_path: Path) -> None:
    two: dict[str, Any] = torch.load(found / f"{way}-{name}.pt", weights_only=True)
    assert_same(name, _work.WORK[name](tmp_path, "cpu"), two, atol=1e-6)


def test_one_process_offloads_too() -> None:
    ids = torch.tensor([[3, 4, 5], [6, 7, 8]])
    try:
        model = shard(_work.tiny(2, 3), torch.device("cpu"), offload=True)
        with torch.no_grad(), in_turns(model):
            found = model(input_ids=ids).logits
        assert is_sharded(model)
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(found, _work.tiny(2, 3)(input_ids=ids).logits.detach(), rtol=0, atol=1e-6)


def assert_same(name: str, one: dict[str, Any], two: dict[str, Any], *, atol: float) -> None:
    """What one process and two processes made of a piece of work."""
    if name == "sharded_teacher":
        for kind, asked in two.items():
            for alone, spread in zip(one[kind], asked, strict=True):
                assert spread["means"] == pytest.approx(alone["means"], rel=10 * atol)
                torch.testing.assert_close(spread["hidden"], alone["hidden"], rtol=0, atol=10 * atol)
                assert spread["text"] == alone["text"]
        return
    if name == "asked_unevenly":
        assert (two["written"], two["kept"], two["voted"]) == (one["written"], one["kept"], one["voted"])
        for ours, theirs in zip(one["ranked"], two["ranked"], strict=True):
            assert theirs == pytest.approx(ours, rel=10 * atol)
        return
    if name == "agreement":
        assert two["said"].startswith("process 1: waiting for the other processes (agreement)")
        assert (one["compiled"], two["compiled"]) == ([True], [False, False])
        assert two["mistakes"][:2] == ["the first process knows why"] * 2
        assert [text.split(" differ")[0] for text in two["mistakes"][2:]] == ["the teacher's weights"] * 2
        assert one["said"] == one["mistakes"][1] == ""
        assert two["terms"] == {"terms/a": 3.0, "terms/c": 1.0, "terms/b": 2.5}, "processes have noted different terms"
        return
    assert two["weights"].keys() == one["weights"].keys()
    for key, value in one["weights"].items():
        torch.testing.assert_close(
            two["weights"][key], value, rtol=0, atol=atol, msg=lambda text, key=key: f"{key}: {text}"
        )
    if name in ("steps", "reference"):
        assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=atol)
    if name == "logged":
        assert [line["rows_seen"] for line in two["lines"]] == [line["rows_seen"] for line in one["lines"]]
        for ours, theirs in zip(one["lines"], two["lines"], strict=True):
            assert theirs == pytest.approx(ours, rel=10 * atol)
            # The fused head, a GPU's default, does not compute a term whose weight is 0 in a step.
            left_out = {0.0: {"terms/group_relative"}, 1.0: {"terms/soft_target"}} if one["fused"] else {}
            every = {"loss", "rows_seen", "alpha", "terms/group_relative", "terms/soft_target"}
            assert ours.keys() == every - left_out.get(ours["alpha"], set())
        assert len(two["lines"]) == 4
        assert len(set(two["compute"])) <= 1, "processes decide alike whether to compile"
    if name == "held_out":
        assert two["metrics"] == pytest.approx(one["metrics"], rel=10 * atol)
        assert len(one["metrics"]) == 3, one["metrics"]
        assert two["samples"] == one["samples"]
        assert len(one["samples"]) == 3
    if name == "lora":
        assert two["read"] == [0], "the records are read once, by the first process"
