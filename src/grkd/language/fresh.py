"""Groups that a student samples while it is trained: who ranks them, what rankers read, where they are kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from grkd.console import console
from grkd.data.chat import decode_response
from grkd.data.language import Group
from grkd.errors import UserError
from grkd.language.context import LanguageContext
from grkd.language.record_columns import check_columns, record_columns
from grkd.language.respond import read_records
from grkd.language.scorer import panel_of
from grkd.language.served import served_teacher
from grkd.language.teacher_scorer import local_teacher
from grkd.objectives import Objective
from grkd.rankers import Panel, Resources, Teacher
from grkd.recipe import LanguageRecipe, Method, Score, SelfTeacher, shows_tokens
from grkd.training.fresh_groups import FreshGroups, orders
from grkd.training.groups_file import GroupsFile
from grkd.training.language_rows import LanguageRows, mean_log_probs_of


def method_panel(recipe: LanguageRecipe, method: Method) -> Panel:
    """The method's own rankers, else the recipe's. Raises UserError for an unknown ranker or option."""
    settings: Score = recipe.score
    if method.rankers is not None:
        settings = replace(settings, reward=None, calibration=None, rankers=method.rankers, combine=method.combine)
    elif method.combine is not None:
        settings = replace(settings, combine=method.combine)
    return panel_of(settings, recipe.teacher)


def panels_of(recipe: LanguageRecipe) -> list[Panel]:
    """The recipe's rankers, and those of each method that has its own."""
    own = [method_panel(recipe, method) for method in recipe.methods if method.rankers is not None]
    return [panel_of(recipe.score, recipe.teacher), *own]


def columns_read(recipe: LanguageRecipe) -> set[str] | None:
    """Columns of the records that rankers or the teacher may read; None: any."""
    context = recipe.teacher.context if isinstance(recipe.teacher, SelfTeacher) else None
    found = set() if context is None else {context}
    columns = [panel.columns for panel in panels_of(recipe)]
    return None if None in columns else found.union(*filter(None, columns))


def samples_groups(recipe: LanguageRecipe, objective: Objective) -> bool:
    """Whether this method's groups of n are sampled in training, if the recipe says so.

    Methods that compare responses, and those that sample by themselves: they learn from as many.
    """
    return recipe.responses.when == "in_training" and (orders(objective) or objective.on_policy > 0)


def fresh_groups(
    context: LanguageContext,
    method: Method,
    objective: Objective,
    work: Path,
    *,
    teacher: Any,
    several: Mapping[str, Any] | None = None,
) -> FreshGroups:
    """The rankers, opened if the method asks them; teacher: the live one, or None if nothing needs it.

    several: of several teachers, the models of those in this process by label; `teacher` is then all of them as one.
    Raises UserError for rankers that cannot be used here.
    """
    panel = method_panel(context.recipe, method)
    if orders(objective):
        panel.open(
            Resources(
                teacher=None if context.teachers else _asked(context, panel, teacher),
                teachers={
                    label: opens
                    for label, own in context.teachers.items()
                    if (opens := _asked(own, panel, (several or {}).get(label), name=f"training-{label}")) is not None
                },
                device=context.models.device,
                folder=context.run.path / "rankers" / f"training-{context.run.ranks.process_index}",
                batch_size=context.recipe.score.batch_size,
                budgets=context.models.budgets,
            )
        )
    stops = set(context.models.numbers["stop_ids"])
    return FreshGroups(
        panel=panel,
        n=context.recipe.responses.n,
        stored_share=context.recipe.responses.stored_share,
        decode=lambda ids: decode_response(context.models.tokenizer, ids, stops),
        reference=_reference(context) if objective.needs_reference else None,
        file=GroupsFile(work / "groups", rank=context.run.ranks.process_index) if orders(objective) else None,
        teachers=[teacher, *(several or {}).values()],
        stop_ids=frozenset(stops),
    )


def _asked(
    context: LanguageContext, panel: Panel, live: Any, *, name: str = "training"
) -> Callable[[], Teacher] | None:
    """What opens the teacher of the rankers; name: of a served one's answers.

    Raises UserError for one that cannot score the student's tokens.
    """
    if live is not None:
        return lambda: local_teacher(context, live)
    if context.models.served is None or not shows_tokens(context.recipe):
        return None
    by_token = {member.ranker.name for member in panel.members} & {"log_prob", "calibrated"}
    if by_token and context.models.teacher_tokenizer is not None:
        raise UserError(
            f"ranker {by_token.pop()}: the served teacher has another vocabulary than the student, whose responses are "
            "sampled in training; name the ranker choice or judge, or set responses.when: before"
        )
    return lambda: served_teacher(context, name)


def with_columns(context: LanguageContext, method: Method, groups: Sequence[Group]) -> list[Group]:
    """The groups with what rankers read: the prompt, and the other columns of its record.

    Raises UserError for a column that a ranker reads and no record has.
    """
    data, found = context.recipe.data, record_columns(context.recipe)
    panel = method_panel(context.recipe, method)
    check_columns(panel, found, [group.id for group in groups], where=data.source)
    messages = {record["group"]: record["messages"] for record in read_records(context.run, "train")}
    return [
        replace(group, columns={**own.columns, "prompt": own.asked(messages[group.id], system=data.system)})
        for group in groups
        for own in [found[group.id]]
    ]


def _reference(context: LanguageContext) -> Any:
    """Mean log-probabilities under the student before training, which stays in memory beside the student."""
    console.print("loading the student before training, which the method compares with")
    before = context.models.student().to(context.models.device).eval().requires_grad_(False)
    numbers = context.models.numbers
    rows = LanguageRows(pad_token_id=numbers["pad_token_id"], vocabulary=numbers["vocabulary"])
    return partial(mean_log_probs_of, rows, before)
