"""A language model's first stage: its models where they must be made, and the prompts as token ids."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from grkd.console import console
from grkd.data.chat import encode_prompt, encode_response
from grkd.data.language import within_context
from grkd.data.prompts import Example, read_examples, split_heldout
from grkd.errors import UserError
from grkd.files import write_json
from grkd.language.context import LanguageModels
from grkd.language.tables import PROMPTS, write_table
from grkd.recipe import LanguageRecipe, Responses
from grkd.run.folder import RunFolder, identity
from grkd.run.training import check

SPLITS = ("train", "heldout")


def prepare(recipe: LanguageRecipe, run: RunFolder, models: LanguageModels) -> Path:
    """Models that must be made first (GGUF, truncated, fresh), and the prompts as token ids.

    Where responses come from the data, alone or in a mixture, theirs are in prompts.parquet too, as token ids that end
    with a stop token and are cut at responses.max_new_tokens.
    """
    responses = recipe.responses
    _check_choice(responses)
    inputs = {
        "data": identity(recipe.data),
        "teacher": identity(recipe.teacher),
        "student": identity(recipe.student),
        "max_new_tokens": responses.max_new_tokens,
        "from_data": from_data(responses),
        "groups_from_data": groups_from_data(responses),
        "seed": recipe.seeds[0],
    }

    def make(work: Path) -> None:
        if not run.ranks.is_main_process:
            return
        examples = _examples(recipe)
        console.print("loading teacher and student")
        models.make(work)
        check(recipe.training, recipe.methods, models.numbers_in(work)["vocabulary"])
        records, dropped = _encoded(recipe, examples, models, models.numbers_in(work))
        counts = {f"prompts_{split}": sum(record["split"] == split for record in records) for split in SPLITS}
        for split in SPLITS:
            if not counts[f"prompts_{split}"]:
                raise UserError(f"data: no {split} prompt fits the context; {dropped} were too long and dropped")
        if dropped:
            console.print(f"[yellow]{dropped} prompts are too long for the context and were dropped[/yellow]")
        _say_what_is_left_out(responses, records)
        write_table(work / "prompts.parquet", records, PROMPTS)
        write_json(work / "counts.json", {**counts, "prompts_dropped_too_long": dropped})

    return run.stage("prepare", inputs, make, quick=True)


def from_data(responses: Responses) -> bool:
    """Whether any response is taken from the data."""
    return responses.source == "data" or (responses.mixture is not None and responses.mixture.data > 0)


def groups_from_data(responses: Responses) -> bool:
    """Whether whole groups are taken from the data, so that a line with one response is a mistake."""
    return responses.source == "data" and responses.n > 1


def _check_choice(responses: Responses) -> None:
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


def _say_what_is_left_out(responses: Responses, records: list[dict[str, Any]]) -> None:
    longest = max(len(record["data_response_ids"] or []) for record in records)
    if longest > responses.n == 1:
        console.print(
            f"[yellow]the data has up to {longest} responses a prompt; responses.n = 1 takes the first of them[/yellow]"
        )


def _examples(recipe: LanguageRecipe) -> list[tuple[str, Example]]:
    """(split, example) of the whole data, ids made unique across the two files."""
    data, groups = recipe.data, from_data(recipe.responses)
    train = read_examples(Path(data.train), limit=data.limit, groups=groups)
    if data.heldout is not None:
        heldout = read_examples(Path(data.heldout), groups=groups)
    else:
        train, heldout = split_heldout(train, data.heldout_fraction, recipe.seeds[0])
    return [("train", example) for example in train] + [("heldout", example) for example in heldout]


def _encoded(
    recipe: LanguageRecipe, examples: list[tuple[str, Example]], models: LanguageModels, numbers: dict[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """Records with token ids, and how many were dropped because prompt and response exceed the context."""
    data, records, dropped = recipe.data, [], 0
    for split, example in examples:
        prompt_ids = encode_prompt(models.tokenizer, example, system=data.system)
        _check_answers(recipe.responses, split, example)
        if not within_context(
            prompt_ids,
            max_prompt_tokens=data.max_prompt_tokens,
            max_new_tokens=recipe.responses.max_new_tokens,
            context=numbers["context"],
        ):
            dropped += 1
            continue
        records.append(
            {
                "id": f"{split}/{example.id}",
                "split": split,
                "prompt": shown(example),
                "messages": json.dumps(example.messages or [{"role": "user", "content": example.prompt}]),
                "prompt_ids": prompt_ids,
                "data_response_ids": _data_responses(recipe, example, models, numbers["stop_ids"]),
                "data_scores": example.scores,
            }
        )
    return records, dropped


def _check_answers(responses: Responses, split: str, example: Example) -> None:
    """Raises UserError where an example has fewer responses than the recipe takes from the data."""
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


def _data_responses(
    recipe: LanguageRecipe, example: Example, models: LanguageModels, stop_ids: list[int]
) -> list[list[int]] | None:
    """Every response that the data has, cut at the limit of length; None where none is taken from there."""
    if not from_data(recipe.responses):
        return None
    encoded = (
        encode_response(
            models.tokenizer,
            replace(example, completion=text, responses=None, scores=None),
            stop_ids=stop_ids,
            system=recipe.data.system,
        )
        for text in example.answers
    )
    return [ids[: recipe.responses.max_new_tokens] for ids in encoded]


def shown(example: Example) -> str:
    """The prompt as people read it: its last message."""
    if example.prompt is not None:
        return example.prompt
    assert example.messages
    return example.messages[-1]["content"]
