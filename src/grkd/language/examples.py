"""What a recipe's data gives: prompts, and how many responses a group takes from the data. Needs no torch."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from grkd.data.prompts import Example, split_heldout
from grkd.data.sources import gathered, named_records, read_examples
from grkd.errors import UserError
from grkd.recipe import LanguageRecipe, Responses

SPLITS = ("train", "heldout")


def data_examples(recipe: LanguageRecipe, read: Collection[str] | None = ()) -> list[tuple[str, Example]]:
    """(split, example) of the whole data, ids made unique across the two files. read: as read_examples has it."""
    data = recipe.data
    train = _read(recipe, data.train, data.train_split, limit=data.limit, read=read)
    if data.heldout is not None or data.heldout_split is not None:
        heldout = _read(recipe, data.heldout, data.heldout_split, read=read)
    else:
        train, heldout = split_heldout(train, data.heldout_fraction, recipe.seeds[0])
    return [("train", example) for example in train] + [("heldout", example) for example in heldout]


def _read(
    recipe: LanguageRecipe,
    path: str | None,
    split: str | None,
    *,
    limit: int | None = None,
    read: Collection[str] | None,
) -> list[Example]:
    """The examples of a file, or of a split of the data set by name; without those left unanswered where others are."""
    data, groups = recipe.data, from_data(recipe.responses)
    if path is not None:
        examples = read_examples(Path(path), limit=limit, groups=groups, turns=data.train_on_turns, read=read)
    else:
        assert data.dataset is not None
        assert split is not None
        found = named_records(data.dataset, split=split, name=data.name, streaming=data.streaming)
        name = f"{data.dataset}, split {split}"
        examples = gathered(found, name, limit=limit, groups=groups, turns=data.train_on_turns, read=read)
    if groups:  # the user's last words in a conversation of which other turns are learnt
        examples = [example for example in examples if example.answers or example.record is None]
    return [example.with_template_options(data.chat_template_kwargs) for example in examples]


def from_data(responses: Responses) -> bool:
    """Whether any response is taken from the data."""
    return responses.source == "data" or (responses.mixture is not None and responses.mixture.data > 0)


def groups_from_data(responses: Responses) -> bool:
    """Whether whole groups are taken from the data, so that a line with one response is a mistake."""
    return responses.source == "data" and responses.n > 1


def check_choice(responses: Responses) -> None:
    """Raises UserError for settings that can leave nothing to choose from."""
    if responses.candidates is not None and responses.n == 1 < responses.candidates:
        raise UserError("responses.candidates: of several the most different n are kept; set responses.n to 2 or more")
    sampled = responses.n if responses.source in ("teacher", "student") else 0
    if responses.mixture is not None:
        sampled = max(responses.mixture.teacher, responses.mixture.student)
    if responses.temperature == 0 and sampled > 1:
        raise UserError(
            f"responses.temperature: at 0 all {sampled} responses of a model to a prompt are the same; set it above 0"
        )


def check_answers(responses: Responses, split: str, example: Example) -> None:
    """Raises UserError if an example has fewer responses than the recipe takes from the data."""
    found = len(example.answers)
    if not from_data(responses) or found >= (2 if groups_from_data(responses) else 1):
        return
    if found:
        raise UserError(
            f"data: {split} example {example.id} has one response, but responses.n is {responses.n}; a group needs "
            "2 or more: give it more, drop it, or set responses.n to 1"
        )
    raise UserError(
        f"data: {split} example {example.id} has no completion or responses, but responses.source is "
        f"{responses.source}, which takes them from the data"
    )


def shown_text(columns: Mapping[str, Any], column: str, *, group: str, source: str) -> str:
    """What a self-teacher sees of a record beside the prompt. Raises UserError for a record without the text."""
    text = columns.get(column)
    if not isinstance(text, str) or not text.strip():
        raise UserError(
            f"teacher.context: record {group} of {source} has no text in the column {column!r}; give every record one, "
            "or remove the record"
        )
    return text
