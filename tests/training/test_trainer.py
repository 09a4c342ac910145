"""The Trainer: one loss however the step is split, on one scale in training and evaluation, the same after a kill.

Over 300 lines: the loss made by hand, and every way of taking a step that it is compared with.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerControl, TrainerState, TrainingArguments

from grkd import objectives
from grkd.data.language import Group, Item, response_logits
from grkd.training import (
    DistillationTrainer,
    FiniteSteps,
    LanguageRows,
    MetricsFile,
    WholeCheckpoints,
    last_whole_checkpoint,
)
from grkd.training import trainer as training_module
from grkd.training.groups_of_responses import chosen
from tests._forked import on_ranks

PAD = 3


def tiny(seed: int, layers: int = 1) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=30,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.3,
            pad_token_id=PAD,
            eos_token_id=PAD,
            bos_token_id=None,
        )
    )


def ragged(count: int) -> list[Item]:
    """Responses of very different lengths: where a mean of means differs most from the mean over tokens."""
    generator = torch.Generator().manual_seed(5)
    items = []
    for number in range(count):
        prompt, response = 1 + number % 3, 1 + (number * 5) % 9
        ids = torch.randint(4, 30, (prompt + response,), generator=generator).tolist()
        items.append(Item(f"i{number}", ids[:prompt], [*ids[prompt:-1], PAD]))
    return items


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.1,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 0,
    }
    return TrainingArguments(**(settings | changes))


OPTIONS: dict[str, dict[str, Any]] = {
    "grkd": {"pairs.group": "all", "alpha_shape": "constant", "alpha_ceiling": 0.5},
    "gkd": {"on_policy_fraction": 0.0},  # below 1 the draw of prompts depends on the micro-batches
}


def grouped(items: list[Item], n: int = 3) -> list[Group]:
    """Groups of n responses to one prompt (one group has two), with scores under teacher and reference."""
    generator = torch.Generator().manual_seed(6)
    groups = []
    for number, item in enumerate(items):
        size = n - 1 if number == 1 else n
        answers = [
            replace(
                item,
                id=f"{item.id}#{k}",
                response_ids=[*torch.randint(4, 30, (1 + (number + 2 * k) % 5,), generator=generator).tolist(), PAD],
            )
            for k in range(size)
        ]
        groups.append(
            Group(
                id=item.id,
                items=tuple(answers),
                teacher_scores=tuple(torch.randn(size, generator=generator).tolist()),
                sources=("teacher", "data", "teacher")[:size],
                reference_log_probs=tuple((torch.randn(size, generator=generator) - 3).tolist()),
            )
        )
    return groups


def echo(
    student: Any, prompts: list[list[int]], mixed_in: float, seeds: list[int]
) -> list[tuple[list[int], list[float]]]:
    """Stands in for sampling: answers that depend on the prompt alone."""
    return [([*reversed(prompt), PAD], [-1.0 - 0.1 * k for k in range(len(prompt) + 1)]) for prompt in prompts]


def trainer(
    folder: Path,
    items: Sequence[Item | Group],
    method: str = "grkd",
    callbacks: Any = None,
    fused_head: bool | None = None,
    options: dict[str, Any] | None = None,
    steps_per_generation: int = 1,
    **changes: Any,
) -> Any:
    objective = objectives.load(method, **(OPTIONS.get(method, {}) if options is None else options))
    return DistillationTrainer(
        tiny(1),
        arguments(folder, **changes),
        objective=objective,
        rows=LanguageRows(
            pad_token_id=PAD,
            vocabulary=30,
            teacher=tiny(0, layers=2),
            trains_on=objective.trains_on,
            sampler=echo if objective.on_policy else None,
        ),
        train_dataset=items,
        fused_head=fused_head,
        steps_per_generation=steps_per_generation,
        callbacks=callbacks,
    )


def by_hand(
    method: str,
    groups: Sequence[Item | Group],
    student: Any = None,
    options: dict[str, Any] | None = None,
    progress: float = 0.0,
) -> torch.Tensor:
    """Each level's mean loss over all its rows, each response run alone and unpadded."""
    objective = objectives.load(method, **(OPTIONS.get(method, {}) if options is None else options))
    student = tiny(1).eval() if student is None else student
    teacher = tiny(0, layers=2).eval()
    used = [chosen(group, objective.trains_on) if isinstance(group, Group) else group for group in groups]
    students, teachers, labels, drawn, response, means = [], [], [], [], [], []
    for group in used:
        means.append([])
        for item in group.items if isinstance(group, Group) else [group]:
            if objective.on_policy:
                ((answer, log_probs),) = echo(student, [item.prompt_ids], 0.0, 0)
                item = replace(item, response_ids=answer)
                drawn += log_probs
            batch = LanguageRows(pad_token_id=PAD, vocabulary=30).collate([item])
            students.append(response_logits(student, batch)[0])
            teachers.append(response_logits(teacher, batch)[0])
            labels.append(torch.tensor(item.response_ids))
            response += [len(labels) - 1] * len(item.response_ids)
            token = students[-1].log_softmax(-1).gather(-1, labels[-1].unsqueeze(-1))
            means[-1].append(token.mean())
    batches = {
        "row": objectives.Batch(
            student=torch.cat(students),
            teacher=torch.cat(teachers).detach(),
            labels=torch.cat(labels),
            response=torch.tensor(response),
            sampled_log_probs=torch.tensor(drawn) if objective.on_policy else None,
        )
    }
    if "response" in objective.levels:
        width = max(map(len, means))

        def table(rows: Sequence[Sequence[Any]]) -> torch.Tensor:
            padded = [[*map(torch.as_tensor, row), *[torch.tensor(0.0)] * (width - len(row))] for row in rows]
            return torch.stack([torch.stack(row) for row in padded])

        sizes = [[len(item.response_ids) for item in group.items] for group in used]
        batches["response"] = objectives.Batch(
            level="response",
            student=table(means),
            teacher=table([group.teacher_scores for group in used]),
            reference=table([group.reference_log_probs for group in used]),
            mask=table([[True] * len(row) for row in means]).bool(),
            lengths=table(sizes).long(),
        )
    parts = [
        objectives.combine(
            objective.terms(replace(batches[level], progress=progress)), rows=len(batches[level].student)
        )
        for level in objective.levels
    ]
    return torch.stack(parts).sum()


def per_method(*, coupled: bool = True) -> list[str]:
    """All methods, or those whose loss does not depend on which rows share a micro-batch."""
    names = [name for name in objectives.names() if name != "grpo"]  # it needs rankers: test_fresh_groups.py
    return [name for name in names if coupled or not objectives.load(name, **OPTIONS.get(name, {})).couples_rows]


@pytest.mark.parametrize("method", per_method(coupled=False))
@pytest.mark.parametrize(("batch", "accumulation"), [(8, 1), (4, 2), (1, 8)])
def test_step_does_not_depend_on_micro_batches(tmp_path: Path, method: str, batch: int, accumulation: int) -> None:
    groups = grouped(ragged(8))
    made = trainer(
        tmp_path, groups, method, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation
    )
    made.train()
    student = tiny(1).eval()
    expected = by_hand(method, groups, student)
    assert made.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)
    # One SGD step of the hand-made loss from the same start.
    expected.backward()
    reference = tiny(1)
    for name, before in reference.named_parameters():
        step = made.model.get_parameter(name).detach() - before
        wanted = -0.1 * student.get_parameter(name).grad
        torch.testing.assert_close(step, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", per_method(coupled=False))
def test_evaluation_is_on_the_scale_of_training(tmp_path: Path, method: str) -> None:
    groups = grouped(ragged(7))
    made = trainer(tmp_path, groups, method)
    if made.objective.on_policy:
        pytest.skip("its loss is on responses made in training")
    for size in (1, 3, 7):
        made.args.per_device_eval_batch_size = size
        assert made.evaluate(groups)["eval_loss"] == pytest.approx(
            by_hand(method, groups, progress=1.0).item(), rel=1e-4
        )


def test_which_responses_a_method_is_trained_on() -> None:
    group = grouped(ragged(1))[0]
    group = replace(group, teacher_scores=(0.5, -1.0, 2.0), reference_log_probs=(-1.0, -2.0, -3.0))
    assert chosen(group, "all") == group
    assert [item.id for item in chosen(group, "best").items] == ["i0#2"]
    ends = chosen(group, "ends")
    assert [item.id for item in ends.items] == ["i0#2", "i0#1"]
    assert (ends.teacher_scores, ends.reference_log_probs) == ((2.0, -1.0), (-3.0, -2.0))
    assert chosen(group, "data").items == (group.items[1],)
    assert chosen(group, "teacher").sources == ("teacher", "teacher")
    assert len(chosen(replace(group, teacher_scores=(1.0, 1.0, 1.0)), "ends").items) == 1  # no pair: nothing to learn


def test_responses_without_logits_are_those_with_them(tmp_path: Path) -> None:
    """The memory-lean log-probabilities, the logits beside token rows, and a head that is special agree."""
    groups = grouped(ragged(4))
    rows = LanguageRows(pad_token_id=PAD, vocabulary=30, teacher=tiny(0, layers=2))
    student = tiny(1).eval()
    batch = rows.collate(groups)
    lean = rows.forward(student, batch, levels=("response",)).batches["response"]
    beside = rows.forward(student, batch, levels=("row", "response")).batches["response"]
    fused = rows.forward(student, batch, levels=("row", "response"), fused=True)
    assert fused.head_inputs is not None
    student.config.logit_scale = 2.0  # as Cohere's; our tiny model ignores it, the check for plain heads does not
    special = rows.forward(student, batch, levels=("response",)).batches["response"]
    for other in (beside, fused.batches["response"], special):
        torch.testing.assert_close(other.student, lean.student, rtol=1e-5, atol=1e-6)
        assert torch.equal(other.lengths, lean.lengths)
    assert lean.mask.sum() == sum(len(group.items) for group in groups)
    assert lean.lengths[0].tolist() == [len(item.response_ids) for item in groups[0].items]


def test_alpha_and_terms_are_logged(tmp_path: Path) -> None:
    made = trainer(tmp_path, ragged(8), max_steps=5, callbacks=[MetricsFile(tmp_path / "metrics.jsonl")])
    made.objective = objectives.load("grkd", **{"pairs.group": "all"})
    made.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["alpha"] for line in lines] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    for line in lines:
        terms = line["terms"]
        mixed = line["alpha"] * terms["group_relative"] + (1 - line["alpha"]) * terms["soft_target"]
        assert line["loss_nats"] == pytest.approx(mixed, rel=1e-3)


def test_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "max_steps": 6,
        "save_strategy": "steps",
        "save_steps": 2,
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "per_device_train_batch_size": 2,
    }

    def make(folder: Path) -> Any:
        made = trainer(
            folder, ragged(8), callbacks=[WholeCheckpoints(), MetricsFile(folder / "metrics.jsonl")], **settings
        )
        made.objective = objectives.load("grkd", **{"pairs.group": "sample", "pairs.group_size": 6})
        return made

    whole = make(tmp_path / "whole")
    (tmp_path / "whole").mkdir(exist_ok=True)
    whole.train()

    (tmp_path / "cut").mkdir()
    cut = make(tmp_path / "cut")
    step = cut.training_step

    def killed(*args: Any, **kwargs: Any) -> Any:
        if cut.state.global_step == 5:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    cut.training_step = killed
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    # A checkpoint cut short by the kill has no mark and is passed over.
    (tmp_path / "cut" / "checkpoint-5").mkdir()
    found = last_whole_checkpoint(tmp_path / "cut")
    assert found is not None
    assert found.name == "checkpoint-4"
    again = make(tmp_path / "cut")
    again.train(resume_from_checkpoint=str(found))
    for name, value in whole.model.named_parameters():
        torch.testing.assert_close(again.model.get_parameter(name), value, rtol=0, atol=0)
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("kd", {"temperature": 2.0}),
        (
            "grkd",
            {"pairs.group": "top", "pairs.group_size": 6, "pairs.target": "soft", "pairs.normalize": "candidates"},
        ),
        ("grkd", {"pairs.group": "top", "pairs.group_size": 5, "alpha_shape": "constant", "alpha_ceiling": 1.0}),
        ("gkd", {"on_policy_fraction": 0.0, "beta": 0.3}),
        ("gkd", {"on_policy_fraction": 0.0, "beta": 1.0}),
    ],
)
def test_fused_head_makes_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, options: dict[str, Any]
) -> None:
    made, calls = {}, []
    real = training_module.distillation_head
    monkeypatch.setattr(training_module, "distillation_head", lambda **words: calls.append(1) or real(**words))
    for fused in (False, True):
        settings = {"max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
        made[fused] = trainer(tmp_path / str(fused), ragged(8), fused_head=fused, **settings)
        made[fused].objective = objectives.load(method, **options)
        made[fused].train()
        assert len(calls) == (6 if fused else 0)
    for name, value in made[False].model.state_dict().items():
        torch.testing.assert_close(made[True].model.state_dict()[name], value, rtol=1e-3, atol=1e-6)
    for plain, fused_log in zip(made[False].state.log_history[:3], made[True].state.log_history[:3], strict=True):
        assert fused_log["loss"] == pytest.approx(plain["loss"], rel=1e-4)
        terms = {key: value for key, value in fused_log.items() if key.startswith("terms/")}
        assert terms
        for key, value in terms.items():
            assert value == pytest.approx(plain[key], rel=1e-3)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_training_that_is_lost_ends(tmp_path: Path, broken: float) -> None:
    made = trainer(tmp_path, ragged(8), max_steps=4, max_grad_norm=1.0, logging_nan_inf_filter=False)
    made.add_callback(FiniteSteps())
    with torch.no_grad():
        made.model.lm_head.weight[7] = broken
    with pytest.raises(FloatingPointError, match=r"is (nan|inf) at step 1"):
        made.train()


def test_overflow_while_float16_looks_for_its_scale_ends_nothing(tmp_path: Path) -> None:
    callback, state, control = FiniteSteps(), TrainerState(global_step=3), TrainerControl()
    logs = {"loss": 1.0, "grad_norm": math.inf}
    half = arguments(tmp_path)
    half.fp16 = True  # needs a GPU where it is given to the constructor
    callback.on_log(half, state, control, logs)
    with pytest.raises(FloatingPointError, match="loss is nan at step 3"):
        callback.on_log(half, state, control, {"loss": math.nan, "grad_norm": 1.0})
    with pytest.raises(FloatingPointError, match="norm is inf"):
        callback.on_log(arguments(tmp_path), state, control, logs)


def test_fused_head_is_left_where_a_method_needs_logits(tmp_path: Path) -> None:
    made = trainer(tmp_path, ragged(8), "ce", fused_head=True)
    made.train()
    assert made.state.log_history[0]["loss"] == pytest.approx(by_hand("ce", ragged(8)).item(), rel=1e-4)


# Two epochs of two steps, the second and the fourth on answers from before the first and the third.
AHEAD: dict[str, Any] = {"options": {"on_policy_fraction": 1.0}, "steps_per_generation": 3, "max_steps": 4}


def _steps_of_a_rank(folder: Path) -> None:
    found = {}
    for method in per_method(coupled=False):
        made = trainer(folder / method, grouped(ragged(8)), method, per_device_train_batch_size=4)
        made.train()
        found[method] = {"loss": made.state.log_history[0]["loss"], "weights": made.model.state_dict()}
    made = trainer(folder / "ahead", grouped(ragged(8)), "gkd", **AHEAD, per_device_train_batch_size=2)
    made.train()
    found["ahead"] = {"loss": made.state.log_history[2]["loss"], "weights": made.model.state_dict()}
    if made.is_world_process_zero():
        torch.save(found, folder / "out.pt")


def test_two_ranks_make_the_same_step(tmp_path: Path) -> None:
    on_ranks(lambda: _steps_of_a_rank(tmp_path), tmp_path)
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert set(found) == {*per_method(coupled=False), "ahead"}
    for method, made in found.items():
        words = (
            {"method": "gkd", "per_device_train_batch_size": 4, **AHEAD} if method == "ahead" else {"method": method}
        )
        alone = trainer(tmp_path / "alone" / method, grouped(ragged(8)), **words)
        alone.train()
        assert made["loss"] == pytest.approx(alone.state.log_history[2 * (method == "ahead")]["loss"], rel=1e-4), method
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(made["weights"][name], value, rtol=1e-3, atol=1e-6)
