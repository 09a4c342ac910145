"""The records' other columns, which rankers read: they are taken from the data files when responses are scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grkd.data.conversation import Messages
from grkd.data.prompts import Example
from grkd.files import parse_json
from grkd.language.examples import data_examples
from grkd.rankers import PER_GROUP, PER_RESPONSE, Panel, Prompt
from grkd.recipe import LanguageRecipe


@dataclass(frozen=True, kw_only=True)
class GroupData:
    """Of one prompt's record: its columns, and its prompt where that is text (None: it is messages)."""

    columns: Mapping[str, Any]
    prompt: str | None = None

    def asked(self, messages: str, *, system: str | None) -> Prompt:
        """The prompt as rankers read it: text if the record's is text alone, as reward functions expect; else messages.

        messages: of the group, as JSON, without the recipe's system message.
        """
        given: Messages | None = None if self.prompt is not None else parse_json(messages)
        return Example(id="", prompt=self.prompt, messages=given).asked(system)


class RecordColumns(dict[str, GroupData]):
    """By the id of the group; one that is not there has no columns."""

    def __missing__(self, group: str) -> GroupData:
        return GroupData(columns={})


def record_columns(recipe: LanguageRecipe) -> RecordColumns:
    """What the data files hold beside the prompts."""
    return RecordColumns(
        (f"{split}/{example.id}", GroupData(columns=example.columns, prompt=example.prompt))
        for split, example in data_examples(recipe, None)  # keys that nothing reads are named where prompts are made
    )


def check_columns(panel: Panel, found: RecordColumns, groups: Sequence[str], *, where: str) -> None:
    """Raises UserError for a column that a ranker reads and no record of these groups has."""
    has = {name for group in groups for name in found[group].columns}
    panel.check_columns(has, {*PER_GROUP, *PER_RESPONSE}, where=where, what="score.rankers")
