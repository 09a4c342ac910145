"""Prompts as a self-teacher reads them: with a system message or a text of their record that the student won't see."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from grkd.data.chat import encode_prompt
from grkd.data.prompts import restored
from grkd.errors import UserError
from grkd.language.context import LanguageContext
from grkd.language.examples import shown_text
from grkd.language.record_columns import RecordColumns, record_columns
from grkd.recipe import SelfTeacher


class ShownPrompts:
    """Token ids of prompts with the column's text and teacher.system as a system message, behind the one there."""

    def __init__(self, context: LanguageContext) -> None:
        teacher = context.recipe.teacher
        assert isinstance(teacher, SelfTeacher)
        self.column, self.shown, self.system = teacher.context, teacher.system, context.recipe.data.system
        self.tokenizer, self.data = context.models.tokenizer, context.recipe.data
        self.room = context.models.numbers["context"]
        self.columns = RecordColumns() if self.column is None else record_columns(context.recipe)

    def __call__(self, record: Mapping[str, Any], group: str, *, response_tokens: int) -> list[int]:
        """Of one prompt's record. Raises UserError without the text, or if it leaves no room for the response."""
        text = None
        if self.column is not None:
            text = shown_text(self.columns[group].columns, self.column, group=group, source=self.data.source)
        example = restored(dict(record))
        first, *rest = example.conversation
        own = first["content"] if first["role"] in ("system", "developer") else self.system
        plain = rest if first["role"] in ("system", "developer") else [first, *rest]
        example = replace(example, prompt=None, messages=plain)
        if self.tokenizer.chat_template is None:
            raise UserError("teacher.self: the tokenizer has no chat template, which is needed to show it more text")
        ids = encode_prompt(
            self.tokenizer, example, system="\n\n".join(part for part in (own, text, self.shown) if part)
        )
        if len(ids) + response_tokens > self.room:
            raise UserError(
                f"teacher: {group} and its response take {len(ids) + response_tokens} tokens with what a self-teacher "
                f"is shown, the context is {self.room}; shorten it, or lower responses.max_new_tokens"
            )
        return ids
