"""Steps with stored and new responses: the teacher computes the new ones alone, and the student is the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from grkd import objectives
from grkd.data.language import Group, collate
from grkd.teacher.signal import HiddenCache, final_hidden
from grkd.training import DistillationTrainer, WholeCheckpoints, teacher_ahead
from grkd.training.token_rows import teacher_hidden
from tests.training.test_fresh_groups import METHODS, largest_difference, made, weights, with_columns
from tests.training.test_trainer import PAD, grouped, ragged, tiny

STEPS, AHEAD = 4, 2
RESPONSES = 2 * 7 * 3  # of two epochs
MIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "grkd": METHODS["grkd"],  # its share of stored groups is stored_share
    "gkd": ("gkd", {"on_policy_fraction": 0.5}),
    "opd": ("opd", {"on_policy_fraction": 0.5}),
    "grkd-tokens": ("grkd", {"on_policy_fraction": 0.5}),
    "grpo-kl": ("grpo", {"teacher_kl": 0.2}),
}


class Counted:
    """Counts the calls of a teacher in training, and the responses that it is asked about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, teacher: Any) -> None:
        self.calls = self.passes = self.responses = 0
        teacher.model.register_forward_hook(self._called)
        monkeypatch.setattr(teacher_ahead, "teacher_hidden", self._asked)

    def _called(self, *_: Any) -> None:
        self.calls += 1

    def _asked(self, teacher: Any, batch: dict[str, Any]) -> torch.Tensor:
        self.passes += 1
        self.responses += len(batch["response_mask"])
        return teacher_hidden(teacher, batch)


def kept(folder: Path, groups: Sequence[Group]) -> HiddenCache:
    """What the score stage keeps of the stored responses: each computed alone."""
    cache, teacher = HiddenCache(folder), tiny(2, layers=2)
    with torch.no_grad():
        rows = {
            item.id: final_hidden(teacher, collate([item], pad_token_id=PAD))[0]
            for group in groups
            for item in group.items
        }
    cache.write_shard(rows)
    return cache


def trainer(
    folder: Path, method: str, cache: HiddenCache | None, monkeypatch: pytest.MonkeyPatch, packed: bool, **changes: Any
) -> DistillationTrainer:
    monkeypatch.setitem(METHODS, method, MIXED[method])
    groups = [group for group in with_columns(grouped(ragged(8), n=3)) if len(group.items) == 3]
    settings: dict[str, Any] = {"max_steps": STEPS, "per_device_train_batch_size": 4, "learning_rate": 0.02, **changes}
    panel = ["log_prob"] if method == "grkd" else [by_sum]
    found = made(
        folder, method, groups=groups, n=3, panel=panel, stored_share=0.5, steps_per_generation=AHEAD, **settings
    )
    found.rows.tokens_per_batch = 100 if packed else None
    if "response" not in objectives.load(MIXED[method][0], **MIXED[method][1]).levels:
        found.rows.fresh = None
    found.rows.kept = cache
    return found


def by_sum(prompts: Any, completions: list[str], **columns: Any) -> list[float]:
    return [float(sum(map(int, text.split()))) for text in completions]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("method", MIXED)
def test_stored_hidden_states_are_those_of_the_live_teacher(
    method: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = with_columns(grouped(ragged(8), n=3))
    cache = kept(tmp_path / "hidden", groups)
    found, asked, losses = [], [], []
    for folder, store in (("live", None), ("kept", cache)):
        own = trainer(tmp_path / folder, method, store, monkeypatch, packed)
        counted = Counted(monkeypatch, own.rows.teacher)
        own.train()
        assert packed or counted.calls == counted.passes, "no step calls the teacher by itself"
        assert own.rows.tokens_per_batch == (100 if packed else None)
        found.append(weights(own))
        asked.append(counted)
        losses.append([line["loss"] for line in own.state.log_history if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert largest_difference(found[0], tiny(1).state_dict()) > 1e-4
    assert largest_difference(*found) < 1e-6
    assert asked[0].responses == RESPONSES
    assert 0 < asked[1].responses < 0.8 * RESPONSES, "half of the responses are stored"


def test_a_generation_that_a_kill_cut_in_two_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint in the middle of a generation holds the hidden states that were on their way."""
    cache = kept(tmp_path / "hidden", with_columns(grouped(ragged(8), n=3)))
    saved: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "callbacks": [WholeCheckpoints()]}
    whole = trainer(tmp_path / "run", "grkd", cache, monkeypatch, True, **saved)
    whole.train()
    again = trainer(tmp_path / "run", "grkd", cache, monkeypatch, True, **saved)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert largest_difference(weights(whole), weights(again)) == 0


def test_one_pass_of_the_teacher_serves_the_steps_that_are_sampled_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = trainer(tmp_path, "opd", None, monkeypatch, True)
    own.rows.tokens_per_batch = 10_000
    counted = Counted(monkeypatch, own.rows.teacher)
    own.train()
    assert counted.responses == RESPONSES
    assert counted.passes == STEPS / AHEAD
