"""Sampling while training in mixed precision: by the decode step, and by the distribution that is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from grkd.models import graph_sampler, sample_mixed
from grkd.training import on_policy
from tests.training.test_on_policy import Watched
from tests.training.test_trainer import PAD


def test_in_mixed_precision_the_decode_step_samples_as_the_step_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32 weights under bfloat16: accelerate has the autocast in the student's own wrapped `forward` alone."""
    monkeypatch.setattr(sample_mixed, "fastest_method", lambda *_: "graph")
    found = Watched(tmp_path, "minillm", {"teacher_mix": 0.0}, max_steps=2, bf16=True)
    made = found.made
    made.rows.sampler = on_policy.on_policy_sampler(
        None, max_new_tokens=5, stop_ids=[PAD], pad_token_id=PAD, vocabulary=30
    )
    step, off, steps = made.training_step, [], []

    def watched(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        steps.append(graph_sampler._kept[made.model].rows.step)
        with torch.no_grad():
            rows = made.rows.forward(model.eval(), inputs, levels=("row",)).batches["row"]
        own = rows.student.log_softmax(-1).gather(-1, rows.labels.unsqueeze(-1)).squeeze(-1)
        off.append((own - inputs["sampled_log_probs"]).abs().max().item())
        return step(model.train(), inputs, *rest)

    made.training_step = watched
    made.train()
    assert made.model.dtype == torch.float32
    assert steps[0].dtype == torch.bfloat16
    assert all(other is steps[0] for other in steps)
    assert max(off) < 0.1
