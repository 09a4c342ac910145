"""The supervised starts of the on-policy experiments, on a tiny model."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import _on_policy_starts
from grkd.files import read_json
from grkd.models.load import load_language_model


def test_starts_are_made_from_what_was_prepared(
    tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOLLM2", str(tiny_teacher))
    monkeypatch.setattr(_on_policy_starts, "SIDES", {"student": ([0], 1e-2), "teacher": (None, 1e-2)})
    lines = [{"id": f"s/{n}", "prompt": f"w{n % 6} w1", "completion": f"w{n % 3}"} for n in range(12)]
    (tmp_path / "start.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _on_policy_starts.prepare_starts(tmp_path)
    items = read_json(tmp_path / "start" / "items.json")
    assert [copies for *_, copies in items] == [2] * 6
    _on_policy_starts.make_starts(tmp_path, batch_size=4)
    whole = load_language_model(str(tiny_teacher), dtype=torch.float32).config.num_hidden_layers
    for side, layers in (("student", 1), ("teacher", whole)):
        made = load_language_model(str(_on_policy_starts.start_of(tmp_path, side)), dtype=torch.float32)
        assert made.config.num_hidden_layers == layers
        spent = read_json(_on_policy_starts.start_of(tmp_path, side).parent / "training.json")
        assert spent["steps"] == 9  # three epochs of twelve, four at a time
    monkeypatch.setattr(_on_policy_starts, "load_language_model", None)
    _on_policy_starts.make_starts(tmp_path)  # nothing twice
