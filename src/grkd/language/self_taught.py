"""A self-teacher in training: it scores what the student has just written, behind prompts of its own."""

from typing import Any

from grkd.data.language import Group
from grkd.language.context import LanguageContext
from grkd.language.examples import SPLITS
from grkd.language.respond import read_records
from grkd.language.self_teacher import ShownPrompts
from grkd.training.shown_rows import ShownRows


def self_taught_rows(context: LanguageContext, **options: Any) -> ShownRows:
    """Rows of the run's groups with `teacher`, the student before training, in every step.

    Raises UserError for a prompt that leaves no room for a response with what the teacher is shown.
    """
    prompts, room = ShownPrompts(context), context.recipe.responses.max_new_tokens
    records = {record["group"]: record for split in SPLITS for record in read_records(context.run, split)}
    shown = {group: prompts(record, group, response_tokens=room) for group, record in records.items()}

    def ids_of(group: Group) -> list[int]:
        return shown[group.id]

    return ShownRows(shown=ids_of, **options)
