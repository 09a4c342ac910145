"""The reference stage: how likely the student before training finds each response."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from grkd import objectives
from grkd.console import progress_bar
from grkd.data.language import Group
from grkd.data.tables import read_table, write_table
from grkd.language.context import LanguageContext
from grkd.language.rows import language_rows
from grkd.language.score import read_groups
from grkd.recipe import Method
from grkd.run.folder import RunFolder, identity
from grkd.training.language_rows import LanguageRows, mean_log_probs_of
from grkd.training.rows import moved

_GROUPS_PER_SHARD = 256


def reference(context: LanguageContext) -> Path:
    """Mean log-probability of every response under the student before training: once, for all methods that need it."""
    inputs = {
        "score": context.run.key("score"),
        "student": identity(context.recipe.student),
        "device": context.models.device.type,
    }

    def make(work: Path) -> None:
        groups = read_groups(context.run, "train")
        parts = [groups[at : at + _GROUPS_PER_SHARD] for at in range(0, len(groups), _GROUPS_PER_SHARD)]
        mine = range(context.run.ranks.process_index, len(parts), context.run.ranks.num_processes)
        missing = [number for number in mine if not (work / _shard(number)).exists()]
        if not missing:
            return
        student = context.models.student().to(context.models.device).eval()
        rows = language_rows(context, groups, teacher=False)
        with progress_bar() as bar:
            task = bar.add_task("reference (student)", total=sum(len(parts[number]) for number in missing))
            for number in missing:
                write_table(work / _shard(number), _referenced(student, parts[number], rows, context))
                bar.update(task, advance=len(parts[number]))

    return context.run.stage("reference", inputs, make)


def with_reference(run: RunFolder, groups: Sequence[Group]) -> list[Group]:
    """The groups with what the reference stage left of each response."""
    found = {
        record["id"]: record["reference_mean_log_prob_nats"]
        for path in sorted((run.path / "reference").glob("reference-*.parquet"))
        for record in read_table(path)
    }
    return [replace(group, reference_log_probs=tuple(found[item.id] for item in group.items)) for group in groups]


def needs_reference(methods: Sequence[Method]) -> bool:
    """Whether any method compares the student with itself before training."""
    return any(objectives.load(method.name, **method.options).needs_reference for method in methods)


def _referenced(
    student: nn.Module, groups: Sequence[Group], rows: LanguageRows, context: LanguageContext
) -> list[dict[str, object]]:
    records: list[dict[str, object]] = []
    step = max(1, context.recipe.score.batch_size // max(len(group.items) for group in groups))
    for at in range(0, len(groups), step):
        part = groups[at : at + step]
        means = mean_log_probs_of(rows, student, moved(rows.collate(part), context.models.device)).tolist()
        records += [
            {"id": item.id, "reference_mean_log_prob_nats": mean}
            for group, values in zip(part, means, strict=True)
            for item, mean in zip(group.items, values, strict=False)  # shorter groups are padded
        ]
    return records


def _shard(number: int) -> str:
    return f"reference-{number:05d}.parquet"
