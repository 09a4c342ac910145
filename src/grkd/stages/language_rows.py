"""What a language model is trained on: groups of responses, with the signal that a method asks for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import nn

from grkd import objectives
from grkd.console import console, progress_bar
from grkd.data.language import Group
from grkd.errors import UserError
from grkd.objectives import Objective
from grkd.recipe import LanguageRecipe, Method
from grkd.stages._folder import RunFolder, identity
from grkd.stages._models import LanguageModels
from grkd.stages._tables import write_table
from grkd.stages.language_scores import read_groups
from grkd.teachers.signal import HiddenCache, TeacherHead
from grkd.training import LanguageRows
from grkd.training.language_rows import chosen
from grkd.training.on_policy import Sampler, on_policy_sampler

_GROUPS_A_SHARD = 256


def language_rows(
    recipe: LanguageRecipe,
    run: RunFolder,
    models: LanguageModels,
    groups: Sequence[Group],
    *,
    teacher: bool = True,
    objective: Objective | None = None,
) -> LanguageRows:
    """Rows for these groups, with the teacher's signal (none where `teacher` is False) as the objective needs it.

    The teacher runs in every step where the score stage has not cached all their responses, and for on-policy methods:
    nothing else knows new responses.
    """
    numbers = models.numbers
    common = {
        "pad_token_id": numbers["pad_token_id"],
        "vocabulary": numbers["vocabulary"],
        "trains_on": "all" if objective is None else objective.trains_on,
    }
    on_policy = objective is not None and objective.on_policy > 0
    if not teacher:
        return LanguageRows(**common)
    cache, head = HiddenCache(run.path / "score" / "hidden"), run.path / "score" / "head.safetensors"
    if on_policy or not all(item.id in cache for group in groups for item in group.items):
        live = models.teacher()
        return LanguageRows(**common, teacher=live, sampler=_sampler(recipe, models, live) if on_policy else None)
    return LanguageRows(**common, cache=cache, head=TeacherHead.load(head))


def training_groups(run: RunFolder, method: Method, objective: Objective, groups: Sequence[Group]) -> list[Group]:
    """The groups that a method can learn from. Raises UserError where there are none.

    Left out, and said: groups without a response of the kind that it is trained on; for methods that compare
    responses alone, groups whose responses have the same score throughout.
    """
    kept = [group for group in groups if chosen(group, objective.trains_on).items]
    if not kept:
        raise UserError(
            f"methods: {method.label} is trained on responses from the {objective.trains_on}, and there are none; "
            f"set responses.source to {objective.trains_on}, or to a mixture with it"
        )
    without = len(groups) - len(kept)
    if objective.levels == ("response",):
        compared = [group for group in kept if len(set(group.teacher_scores)) > 1]
        if not compared:
            raise UserError(
                f"methods: {method.label} compares the responses of a prompt, and no prompt has two with different "
                "scores; set responses.n to 2 or more"
            )
        without += len(kept) - len(compared)
        kept = compared
    if without and run.ranks.is_main_process:
        console.print(f"[yellow]{method.label}: nothing to learn from {without} of {len(groups)} groups[/yellow]")
    return kept


def reference(recipe: LanguageRecipe, run: RunFolder, models: LanguageModels) -> Path:
    """Mean log-probability of every response under the student before training: once, for all methods that need it."""
    inputs = {"score": run.key("score"), "student": identity(recipe.student), "device": models.device.type}

    def make(work: Path) -> None:
        groups = read_groups(run, "train")
        parts = [groups[at : at + _GROUPS_A_SHARD] for at in range(0, len(groups), _GROUPS_A_SHARD)]
        mine = range(run.ranks.process_index, len(parts), run.ranks.num_processes)
        missing = [number for number in mine if not (work / _shard(number)).exists()]
        if not missing:
            return
        student = models.student().to(models.device).eval()
        rows = language_rows(recipe, run, models, groups, teacher=False)
        with progress_bar() as bar:
            task = bar.add_task("reference (student)", total=sum(len(parts[number]) for number in missing))
            for number in missing:
                write_table(work / _shard(number), _referenced(student, parts[number], rows, recipe, models))
                bar.update(task, advance=len(parts[number]))

    return run.stage("reference", inputs, make)


def with_reference(run: RunFolder, groups: Sequence[Group]) -> list[Group]:
    """The groups with what the reference stage left of each response."""
    found = {
        record["id"]: record["reference_mean_log_prob_nats"]
        for path in sorted((run.path / "reference").glob("reference-*.parquet"))
        for record in pq.read_table(path).to_pylist()
    }
    return [replace(group, reference_log_probs=tuple(found[item.id] for item in group.items)) for group in groups]


def needs_reference(methods: Sequence[Method]) -> bool:
    """Whether any method compares the student with itself before training."""
    return any(objectives.load(method.name, **method.options).needs_reference for method in methods)


@torch.no_grad()
def _referenced(
    student: nn.Module, groups: Sequence[Group], rows: LanguageRows, recipe: LanguageRecipe, models: LanguageModels
) -> list[dict[str, object]]:
    records: list[dict[str, object]] = []
    step = max(1, recipe.score.batch_size // max(len(group.items) for group in groups))
    for at in range(0, len(groups), step):
        part = groups[at : at + step]
        batch = {name: value.to(models.device) for name, value in rows.collate(part).items()}
        means = rows.forward(student, batch, levels=("response",)).batches["response"].student.tolist()
        records += [
            {"id": item.id, "reference_mean_log_prob_nats": mean}
            for group, values in zip(part, means, strict=True)
            for item, mean in zip(group.items, values, strict=False)  # shorter groups are padded
        ]
    return records


def _sampler(recipe: LanguageRecipe, models: LanguageModels, teacher: nn.Module) -> Sampler:
    numbers = {name: models.numbers[name] for name in ("stop_ids", "pad_token_id", "vocabulary")}
    settings = recipe.responses
    return on_policy_sampler(teacher, batch_size=settings.batch_size, max_new_tokens=settings.max_new_tokens, **numbers)


def _shard(number: int) -> str:
    return f"reference-{number:05d}.parquet"
