"""Sampling while training: whose answers a step learns from, in which order, how many at a time, and after a kill."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import Trainer

from grkd.errors import UserError
from grkd.training import GRKDTrainer, WholeCheckpoints, on_policy
from tests.training.test_grkd_trainer import RECORDS, config
from tests.training.test_trainer import PAD, echo, grouped, ragged, trainer

# Ten prompts, two a micro-batch and two of those a step: three steps an epoch, the last of one micro-batch.
SPLIT: dict[str, Any] = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
ALL_ANEW = {"on_policy_fraction": 1.0}


class Watched:
    """A training whose sampler answers with the number of the step that it is asked at."""

    def __init__(self, folder: Path, method: str = "gkd", options: Any = None, **changes: Any) -> None:
        self.made = trainer(
            folder, grouped(ragged(10)), method, options=ALL_ANEW if options is None else options, **SPLIT, **changes
        )
        self.calls: list[tuple[int, int]] = []  # step, prompts
        self.seeds: list[int] = []
        self.seen: list[tuple[int, list[str], list[list[int]]]] = []  # step, groups, first tokens of their answers
        self.made.rows.sampler = self.sample
        step = self.made.training_step

        def watched(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            firsts = [[item.response_ids[0] for item in group.items] for group in inputs["groups"]]
            self.seen.append((self.made.state.global_step, [group.id for group in inputs["groups"]], firsts))
            return step(model, inputs, *rest)

        self.made.training_step = watched

    def sample(self, student: Any, prompts: list[list[int]], mixed_in: float, seeds: list[int]) -> Any:
        step = self.made.state.global_step
        self.calls.append((step, len(prompts)))
        self.seeds += seeds
        return [([4 + step, PAD], [-1.0, -0.5]) for _ in prompts]

    def versions(self) -> list[tuple[int, int]]:
        """Of every micro-batch, the step that it was trained at and the one that its answers come from."""
        found = []
        for step, _, firsts in self.seen:
            (version,) = {first - 4 for answers in firsts for first in answers}
            found.append((step, version))
        return found


@pytest.mark.parametrize(
    ("ahead", "asked_at"),
    [
        (1, [(0, 0), (0, 0), (1, 1), (1, 1), (2, 2), (3, 3), (3, 3), (4, 4), (4, 4)]),
        (2, [(0, 0), (0, 0), (1, 0), (1, 0), (2, 2), (3, 3), (3, 3), (4, 3), (4, 3)]),
        (3, [(0, 0), (0, 0), (1, 0), (1, 0), (2, 0), (3, 3), (3, 3), (4, 3), (4, 3)]),
        (9, [(0, 0), (0, 0), (1, 0), (1, 0), (2, 0), (3, 3), (3, 3), (4, 3), (4, 3)]),
    ],
)
def test_whose_answers_a_step_learns_from(tmp_path: Path, ahead: int, asked_at: list[tuple[int, int]]) -> None:
    """An epoch's end cuts a generation short, so does the last step: nothing is sampled in vain."""
    found = Watched(tmp_path, max_steps=5, steps_per_generation=ahead)
    found.made.train()
    assert found.versions() == asked_at
    assert sum(prompts for _, prompts in found.calls) == sum(
        len(answers) for _, _, firsts in found.seen for answers in firsts
    )
    assert [step for step, _ in found.calls] == sorted({version for _, version in asked_at})  # one call per generation


def test_data_and_losses_are_those_of_sampling_before_every_step(tmp_path: Path) -> None:
    """With answers that do not depend on the student, all is the same but for the number of calls."""
    made: dict[int, Watched] = {}
    for ahead in (1, 3):
        made[ahead] = Watched(tmp_path / str(ahead), options={}, max_steps=7, steps_per_generation=ahead)
        made[ahead].made.rows.sampler = echo
        made[ahead].made.train()
    one, three = made[1], made[3]
    assert three.seen == one.seen  # gkd asks half of the prompts: the same ones
    assert len({str(answers) for _, _, answers in one.seen}) > 1
    for name, value in one.made.model.state_dict().items():
        assert torch.equal(three.made.model.state_dict()[name], value), name
    for ours, theirs in zip(three.made.state.log_history[:-1], one.made.state.log_history[:-1], strict=True):
        assert _without_seconds(ours) == _without_seconds(theirs)


def test_every_prompt_has_its_own_seed_whatever_is_sampled_ahead(tmp_path: Path) -> None:
    one = Watched(tmp_path / "1", max_steps=5, seed=7)
    one.made.train()
    three = Watched(tmp_path / "3", max_steps=5, seed=7, steps_per_generation=3)
    three.made.train()
    assert three.seeds == one.seeds
    assert len(set(one.seeds)) == len(one.seeds)
    other = Watched(tmp_path / "8", max_steps=5, seed=8)
    other.made.train()
    assert not set(other.seeds) & set(one.seeds)


def asked_of(seeds: list[int], share: float) -> float:
    return len(on_policy.answered_anew(seeds, share)) / len(seeds)


def test_the_share_that_is_answered_anew() -> None:
    seeds = on_policy.group_seeds(0, step=3, first=0, groups=4000)
    for share in (0.0, 0.25, 0.5, 1.0):
        assert asked_of(seeds, share) == pytest.approx(share, abs=0.03)
    assert on_policy.group_seeds(0, step=3, first=1000, groups=3000) == seeds[1000:]
    assert not set(seeds) & set(on_policy.group_seeds(0, step=4, first=0, groups=4000))


# Eight prompts per step: micro-batches of eight, of two and of four.
STEPS_OF_EIGHT = [
    {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1},
    {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
]


@pytest.mark.parametrize(("method", "options"), [("gkd", {}), ("minillm", {"teacher_mix": 0.3})])
def test_accumulation_changes_neither_answers_nor_weights(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    weights, answers = [], []
    for number, split in enumerate(STEPS_OF_EIGHT):
        made = trainer(
            tmp_path / str(number), ragged(16), method, options=options, max_steps=3, optim="sgd",
            learning_rate=0.5, lr_scheduler_type="constant", **split,
        )  # fmt: skip
        made.rows.sampler = on_policy.on_policy_sampler(
            made.rows.teacher, max_new_tokens=5, stop_ids=[PAD], pad_token_id=PAD, vocabulary=30
        )
        answers.append(answers_of(made))
        start = {name: value.clone() for name, value in made.model.state_dict().items()}
        made.train()
        weights.append({name: value - start[name] for name, value in made.model.state_dict().items()})
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]
    assert len({str(ids) for ids in answers[0].values()}) > 10
    for other in weights[1:]:
        for name, moved in weights[0].items():
            torch.testing.assert_close(other[name], moved, rtol=1e-3, atol=2e-6, msg=name)
    assert max(moved.abs().max() for moved in weights[0].values()) > 1e-3


def answers_of(made: Any) -> dict[tuple[int, str], list[list[int]]]:
    """Response ids of every group, by step; filled while it trains."""
    found: dict[tuple[int, str], list[list[int]]] = {}
    step = made.training_step

    def watched(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        for group in inputs["groups"]:
            found[made.state.global_step, group.id] = [item.response_ids for item in group.items]
        return step(model, inputs, *rest)

    made.training_step = watched
    return found


def test_ranks_number_the_examples_of_a_step_as_one_rank_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate gives rank r of two the micro-batches r, r + 2, ... of the data."""
    seen: dict[str, tuple[int, int]] = {}

    def renew(model: Any, batches: Any, objective: Any, *, seed: int, places: Any) -> Any:
        for batch, (step, first) in zip(batches, places, strict=True):
            seen.update({group.id: (step, first + number) for number, group in enumerate(batch["groups"])})
        return batches

    def numbered(rank: int, ranks: int, **split: int) -> dict[str, tuple[int, int]]:
        seen.clear()
        made = trainer(tmp_path, ragged(16), "gkd", options=ALL_ANEW, max_steps=2, **split)
        order = BatchSampler(SequentialSampler(range(16)), split["per_device_train_batch_size"], drop_last=False)
        batches = [made.rows.collate([made.train_dataset[i] for i in b]) for b in BatchSamplerShard(order, ranks, rank)]
        monkeypatch.setattr(made.rows, "renew", renew)
        monkeypatch.setattr(made.accelerator.state, "num_processes", ranks)
        monkeypatch.setattr(made.accelerator.state, "process_index", rank)
        steps = split["gradient_accumulation_steps"]
        made._renewed(batches, steps)
        return dict(seen)

    alone = numbered(0, 1, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    split = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    assert numbered(0, 2, **split) | numbered(1, 2, **split) == alone
    assert sorted(alone.values()) == [(step, number) for step in (0, 1) for number in range(8)]


def test_log_probabilities_are_those_of_the_student_that_answered(tmp_path: Path) -> None:
    """The student as it was, run again on what it wrote: minillm's weights know how old the answers are."""
    found = Watched(tmp_path, "minillm", {"teacher_mix": 0.0}, max_steps=3, steps_per_generation=3)
    made = found.made
    made.rows.sampler = on_policy.on_policy_sampler(
        None, max_new_tokens=5, stop_ids=[PAD], pad_token_id=PAD, vocabulary=30
    )
    start = {name: value.clone() for name, value in made.model.state_dict().items()}
    step, old = made.training_step, []

    def watched(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        now = {name: value.clone() for name, value in model.state_dict().items()}
        ratios = []
        for weights in (start, now):
            model.load_state_dict(weights)
            with torch.no_grad():
                rows = made.rows.forward(model.eval(), inputs, levels=("row",)).batches["row"]
            own = rows.student.log_softmax(-1).gather(-1, rows.labels.unsqueeze(-1)).squeeze(-1)
            ratios.append((own - inputs["sampled_log_probs"]).abs().max().item())
        old.append((made.state.global_step, *ratios))
        return step(model.train(), inputs, *rest)

    made.training_step = watched
    made.train()
    assert max(at_start for _, at_start, _ in old) < 1e-4
    assert all(now > 1e-3 for number, _, now in old if number > 0)


def test_a_generation_cut_by_a_kill(tmp_path: Path) -> None:
    """The data and the answers go on where they were."""
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "steps_per_generation": 3, "max_steps": 6}
    whole = Watched(tmp_path, **settings)
    whole.made.train()
    again = Watched(tmp_path, callbacks=[WholeCheckpoints()], **settings)
    again.made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert [groups for _, groups, _ in again.seen] == [groups for step, groups, _ in whole.seen if step >= 1]
    assert again.versions() == [(step, version) for step, version in whole.versions() if step >= 1]
    assert (2, 0) in again.versions()  # sampled before the kill


def test_a_training_after_one_that_stopped_in_a_generation(tmp_path: Path) -> None:
    found = Watched(tmp_path, steps_per_generation=3, max_steps=3)
    step = found.made.training_step

    def stopped(*words: Any) -> Any:
        if found.made.state.global_step == 1:
            raise KeyboardInterrupt
        return step(*words)

    found.made.training_step = stopped
    with pytest.raises(KeyboardInterrupt):
        found.made.train()
    found.made.training_step, first = step, len(found.seen)
    found.made.train()
    assert len(found.seen) - first == 5  # all of the epoch, nothing that was left over


def test_methods_that_sample_nothing_pay_no_heed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pulled = []
    real = Trainer.get_batch_samples

    def counted(self: Any, iterator: Any, count: int, device: Any) -> Any:
        pulled.append(count)
        return real(self, iterator, count, device)

    monkeypatch.setattr(Trainer, "get_batch_samples", counted)
    made = trainer(tmp_path, ragged(8), "kd", max_steps=2, steps_per_generation=4, **SPLIT)
    made.train()
    assert pulled == [2, 2]


def test_the_setting_of_both_trainers(tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = on_policy.sample_on_policy
    monkeypatch.setattr(
        on_policy, "sample_on_policy", lambda *words, **more: calls.append(len(words[2])) or real(*words, **more)
    )
    settings: dict[str, Any] = {"method": "gkd", "method_options": ALL_ANEW, "max_new_tokens": 3, "max_steps": 4}
    for ahead, wanted in ((1, [4, 4, 4, 4]), (2, [8, 8])):
        calls.clear()
        args = config(tmp_path, **settings, steps_per_generation=ahead)
        GRKDTrainer(str(tiny_teacher), str(tiny_teacher), args, train_dataset=RECORDS).train()
        assert calls == wanted
    with pytest.raises(UserError, match="steps_per_generation must be 1 or more, got 0"):
        trainer(tmp_path, ragged(2), steps_per_generation=0)


def _without_seconds(logged: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in logged.items() if not name.startswith("seconds/")}
