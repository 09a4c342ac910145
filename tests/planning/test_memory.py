"""The memory that `grkd plan` and `grkd doctor` count is that of the training that will run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grkd.planning import memory as memory_module
from grkd.planning.memory import free_memory, memory_of
from tests.planning.test_plan import language


def test_layers_are_computed_twice_as_the_training_will_choose(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gradient_checkpointing: auto on a GPU, by the memory that is free there."""
    monkeypatch.setattr(memory_module, "device", lambda _: torch.device("cuda"))

    def activations(choice: str, free: float = 0.0) -> float:
        monkeypatch.setattr(memory_module, "available", lambda _: free)
        spec = language(tiny_recipe, f"training.gradient_checkpointing={choice}", "device=cpu")
        found = memory_of(
            replace(spec, student=replace(spec.student, dtype="float32")), tokens=10**6, response_tokens=9
        )
        assert found is not None
        return found.activations

    assert activations("auto", 1e15) == activations("false")
    assert activations("auto", 1.0) == activations("true") < activations("false")


def test_free_memory_is_known_where_sysconf_counts_no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""

    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr("os.sysconf", unknown)
    assert 2**20 < free_memory(torch.device("cpu")) < 2**60
