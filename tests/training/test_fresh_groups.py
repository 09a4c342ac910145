"""Groups sampled in training: ranked by anyone, the same however a step is split, kept, and resumed where they were."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from grkd import objectives, rankers
from grkd.data.language import Group
from grkd.errors import UserError
from grkd.training import DistillationTrainer, LanguageRows, WholeCheckpoints
from grkd.training.fresh_groups import FreshGroups
from grkd.training.groups_file import GroupsFile, KeepGroups, read_groups_files
from grkd.training.language_rows import mean_log_probs_of
from grkd.training.on_policy import on_policy_sampler
from tests.training.test_trainer import PAD, arguments, echo, grouped, ragged, tiny

N = 4
BOTH = {
    "ranking": [{"part": "pairs", "level": "response", "tau": 0.1}],
    "anchor": [{"part": "soft_target", "divergence": "reverse_kl"}],
    "alpha_ceiling": 0.5,
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "grkd": ("grkd", BOTH),
    "grkd-responses": ("grkd", {"preset": "responses"}),
    "grpo": ("grpo", {}),
    "grpo-kl": ("grpo", {"teacher_kl": 0.2, "normalize": "token"}),
    "opd": ("opd", {}),
    "dpo": ("dpo", {}),
    "simpo": ("simpo", {}),
    "pro": ("pro", {}),
    "pad": ("pad", {}),
}


def words(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def by_length(prompts: Any, completions: list[str], **columns: Any) -> list[float | None]:
    """Longer is better, and nobody knows of a response that begins with 7."""
    return [None if text.startswith("7 ") else float(len(text.split())) for text in completions]


def by_first(prompts: Any, completions: list[str], **columns: Any) -> list[float]:
    return [float(text.split()[0]) for text in completions]


def with_columns(groups: Sequence[Group]) -> list[Group]:
    return [replace(group, columns={"prompt": f"prompt of {group.id}", "grade": 1.0}) for group in groups]


def made(
    folder: Path,
    method: str = "grkd",
    *,
    panel: Sequence[Any] = (by_length,),
    combine: str = "weights",
    sampler: Any = None,
    stored_share: float = 0.0,
    groups: Sequence[Group] | None = None,
    n: int = N,
    steps_per_generation: int = 1,
    callbacks: Sequence[Any] = (),
    **changes: Any,
) -> DistillationTrainer:
    """A trainer of a tiny student on fresh groups of eight prompts."""
    name, options = METHODS[method]
    reference = tiny(1)
    judges = rankers.panel(list(panel), combine=combine)
    # The rows know the teacher's log-probabilities already.
    judges.open(rankers.Resources(teacher=lambda: MagicMock(spec=rankers.Teacher)))
    file = GroupsFile(folder / "groups")
    rows = LanguageRows(
        pad_token_id=PAD,
        vocabulary=30,
        teacher=tiny(2, layers=2),
        trains_on=objectives.load(name, **options).trains_on,
        sampler=sampler or on_policy_sampler(None, max_new_tokens=5, stop_ids=[PAD], pad_token_id=PAD, vocabulary=30),
        fresh=FreshGroups(
            panel=judges,
            n=n,
            decode=words,
            stored_share=stored_share,
            reference=lambda batch: mean_log_probs_of(rows, reference, batch),
            file=file,
        ),
    )
    return DistillationTrainer(
        tiny(1),
        arguments(folder, **changes),
        objective=objectives.load(name, **options),
        rows=rows,
        steps_per_generation=steps_per_generation,
        train_dataset=with_columns(grouped(ragged(8))) if groups is None else list(groups),
        callbacks=[KeepGroups(file), *callbacks],
    )


def weights(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def largest_difference(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("method", METHODS)
def test_the_split_of_a_step_changes_nothing(method: str, tmp_path: Path) -> None:
    found = []
    for size, parts in ((8, 1), (2, 4)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts, "max_steps": 3}
        trainer = made(tmp_path / str(size), method, learning_rate=0.02, **settings)
        start = weights(trainer)
        trainer.train()
        found.append(weights(trainer))
    assert largest_difference(found[0], start) > 1e-4
    assert largest_difference(*found) < 1e-6


@pytest.mark.parametrize("method", ["grkd", "grpo", "dpo"])
def test_a_generation_that_a_kill_cut_in_two_goes_on(method: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "steps_per_generation": 3,
        "save_strategy": "steps",
        "save_steps": 2,
        "learning_rate": 0.02,
    }
    whole = made(tmp_path / "whole", method, callbacks=[WholeCheckpoints()], **settings)
    whole.train()
    again = made(tmp_path / "whole", method, callbacks=[WholeCheckpoints()], **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert largest_difference(weights(whole), weights(again)) == 0
    kept = read_groups_files(tmp_path / "whole" / "groups")
    assert len({(line["step"], line["id"]) for line in kept}) == len(kept) == 12


@pytest.mark.parametrize("method", ["grkd", "grkd-responses", "dpo", "simpo", "pro", "pad"])
def test_is_the_stored_path_if_the_groups_are_the_same(method: str, tmp_path: Path) -> None:
    """A sampler that writes the stored responses, a ranker that gives the stored scores."""
    stored = with_columns(grouped(ragged(8), n=3))
    stored = [group for group in stored if len(group.items) == 3]  # all have n responses
    scores = {
        (f"prompt of {group.id}", words(item.response_ids)): score
        for group in stored
        for item, score in zip(group.items, group.teacher_scores, strict=True)
    }
    queue = {tuple(group.items[0].prompt_ids): [item.response_ids for item in group.items] for group in stored}

    def written(student: Any, prompts: list[list[int]], mixed_in: float, seeds: list[int]) -> Any:
        left = {prompt: list(answers) for prompt, answers in queue.items()}
        found = []
        for prompt in prompts:
            answer = left[tuple(prompt)].pop(0)
            found.append((answer, [-1.0] * len(answer)))
        return found

    def known(prompts: Any, completions: list[str], **columns: Any) -> list[float]:
        return [scores[pair] for pair in zip(prompts, completions, strict=True)]

    fresh = made(tmp_path / "fresh", method, panel=[known], sampler=written, groups=stored, n=3, max_steps=2)
    fresh.train()
    name, options = METHODS[method]
    reference = tiny(1)
    plain = LanguageRows(
        pad_token_id=PAD, vocabulary=30, teacher=tiny(2, layers=2), trains_on=objectives.load(name, **options).trains_on
    )
    batch = plain.collate_all(stored)
    referenced = [
        replace(group, reference_log_probs=tuple(row[: len(group.items)].tolist()))
        for group, row in zip(stored, mean_log_probs_of(plain, reference, batch), strict=True)
    ]
    offline = DistillationTrainer(
        tiny(1),
        arguments(tmp_path / "stored", max_steps=2),
        objective=objectives.load(name, **options),
        rows=plain,
        train_dataset=referenced,
    )
    offline.train()
    assert largest_difference(weights(fresh), weights(offline)) < 1e-6


def test_scores_of_the_ranker_reach_the_loss(tmp_path: Path) -> None:
    trainer = made(tmp_path, max_steps=1)
    seen: list[dict[str, Any]] = []
    step = trainer.training_step
    trainer.training_step = lambda model, inputs, *rest: (seen.append(inputs), step(model, inputs, *rest))[1]
    trainer.train()
    (batch,) = seen
    assert batch["group_mask"].shape == (8, N)
    texts = [words(item) for item in responses(batch)]
    wanted = torch.tensor([float("nan") if value is None else value for value in by_length(None, texts)])
    torch.testing.assert_close(batch["teacher_scores"].flatten(), wanted.nan_to_num())
    found = trainer.rows.forward(trainer.model, batch, levels=("response",)).batches["response"]
    assert (found.mask.flatten() == ~wanted.isnan()).all()
    assert found.teacher.isfinite().all()


def responses(batch: dict[str, Any]) -> list[list[int]]:
    return [ids[mask].tolist() for ids, mask in zip(batch["response_ids"], batch["response_mask"], strict=True)]


def test_the_teachers_pass_is_shared_by_order_and_soft_targets(tmp_path: Path) -> None:
    """The ranker of log-probabilities costs no forward pass of its own."""
    made_one = made(tmp_path, panel=["log_prob"], max_steps=2)
    calls: list[int] = []
    made_one.rows.teacher.model.register_forward_hook(lambda *_: calls.append(1))
    made_one.train()
    assert len(calls) == 2  # one per step, for eight groups of four responses
    teacher, kept = tiny(2, layers=2), read_groups_files(tmp_path / "groups")
    line = kept[0]
    group = next(group for group in with_columns(grouped(ragged(8))) if group.id == line["id"])
    prompt = group.items[0].prompt_ids
    for text, score in zip(line["responses"], line["by_ranker"]["log_prob"], strict=True):
        ids = list(map(int, text.split()))
        with torch.no_grad():
            logits = teacher(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert score == pytest.approx(float(logits[range(len(ids)), ids].mean()), abs=1e-5)


def test_a_share_of_the_prompts_keeps_its_stored_responses(tmp_path: Path) -> None:
    trainer = made(tmp_path, "grpo", stored_share=0.5, sampler=echo)
    batch = next(iter(trainer.get_train_dataloader()))
    (renewed,) = trainer.rows.renew(trainer.model, [batch], trainer.objective, seed=3, places=[(0, 0)])
    stored = {group.id: group for group in batch["groups"]}
    fresh = [group for group in renewed["groups"] if set(group.sources) == {"student"}]
    assert 0 < len(fresh) < 8
    for group in renewed["groups"]:
        if group not in fresh:
            assert group == stored[group.id]
    log_probs = renewed["sampled_log_probs"]
    assert log_probs.isnan().any()
    assert not log_probs.isnan().all()


def test_what_is_kept_of_each_group(tmp_path: Path) -> None:
    trainer = made(tmp_path, panel=[by_length, by_first], combine="lexicographic", max_steps=2)
    trainer.train()
    kept = read_groups_files(tmp_path / "groups")
    assert [line["step"] for line in kept] == [0] * 8 + [1] * 8
    for line in kept:
        assert line["prompt"] == f"prompt of {line['id']}"
        assert line["by_ranker"]["by_length"] == by_length(None, line["responses"])
        assert line["by_ranker"]["by_first"] == by_first(None, line["responses"])
        assert all(value < 0 for value in line["student_before"])
        assert len(line["scores"]) == N
    (shard,) = (tmp_path / "groups").glob("*.parquet")
    shard.rename(shard.with_name("00000002-3.parquet"))  # of the fourth process of an earlier training
    GroupsFile(tmp_path / "groups", rank=1).forget_after(0)
    assert len(read_groups_files(tmp_path / "groups")) == 16
    GroupsFile(tmp_path / "groups").forget_after(2)
    assert len(read_groups_files(tmp_path / "groups")) == 16
    GroupsFile(tmp_path / "groups").forget_after(1)
    assert not read_groups_files(tmp_path / "groups")


def test_seconds_of_sampling_and_ranking_are_logged(tmp_path: Path) -> None:
    trainer = made(tmp_path, max_steps=2)
    trainer.train()
    for line in trainer.state.log_history[:2]:
        assert line["seconds/sample"] > 0
        assert line["seconds/rank"] > 0


def test_nobody_to_rank_is_an_error_before_training(tmp_path: Path) -> None:
    rows = LanguageRows(pad_token_id=PAD, vocabulary=30, teacher=tiny(2), sampler=echo)
    with pytest.raises(UserError, match="nothing ranks them; give GRKDTrainer"):
        DistillationTrainer(tiny(1), arguments(tmp_path), objective=objectives.load("grpo"), rows=rows)


@pytest.mark.parametrize(
    ("changes", "message"), [({"n": 1}, "2 responses or more"), ({"stored_share": 1.0}, "below 1")]
)
def test_settings_out_of_range(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        made(tmp_path, **changes)
