"""A language model's first stage: its models where they must be made, and the prompts as token ids."""

import json
from pathlib import Path
from typing import Any

from grkd.console import console
from grkd.data.chat import encode_prompt, encode_response
from grkd.data.language import within_context
from grkd.data.prompts import Example, read_examples, split_heldout
from grkd.errors import UserError
from grkd.files import write_json
from grkd.recipe import LanguageRecipe
from grkd.stages._folder import RunFolder, identity
from grkd.stages._models import LanguageModels
from grkd.stages._tables import PROMPTS, write_table
from grkd.stages._train import check

SPLITS = ("train", "heldout")


def prepare(recipe: LanguageRecipe, run: RunFolder, models: LanguageModels) -> Path:
    """Models that must be made first (GGUF, truncated, fresh), and the prompts as token ids."""
    inputs = {
        "data": identity(recipe.data),
        "teacher": identity(recipe.teacher),
        "student": identity(recipe.student),
        "max_new_tokens": recipe.responses.max_new_tokens,
        "from_data": recipe.responses.source == "data",
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
        write_table(work / "prompts.parquet", records, PROMPTS)
        write_json(work / "counts.json", {**counts, "prompts_dropped_too_long": dropped})

    return run.stage("prepare", inputs, make, quick=True)


def _examples(recipe: LanguageRecipe) -> list[tuple[str, Example]]:
    """(split, example) of the whole data, ids made unique across the two files."""
    data = recipe.data
    train = read_examples(Path(data.train), limit=data.limit)
    if data.heldout is not None:
        heldout = read_examples(Path(data.heldout))
    else:
        train, heldout = split_heldout(train, data.heldout_fraction, recipe.seeds[0])
    return [("train", example) for example in train] + [("heldout", example) for example in heldout]


def _encoded(
    recipe: LanguageRecipe, examples: list[tuple[str, Example]], models: LanguageModels, numbers: dict[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """Records with token ids, and how many were dropped because prompt and response exceed the context."""
    data, records, dropped = recipe.data, [], 0
    from_data = recipe.responses.source == "data"
    for split, example in examples:
        prompt_ids = encode_prompt(models.tokenizer, example, system=data.system)
        responses: list[list[int]] | None = None
        if from_data:
            if example.completion is None:
                raise UserError(f"data: example {example.id} has no completion, but responses.source is data")
            encoded = encode_response(models.tokenizer, example, stop_ids=numbers["stop_ids"], system=data.system)
            responses = [encoded[: recipe.responses.max_new_tokens]]
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
                "data_response_ids": responses,
                "data_scores": None,
            }
        )
    return records, dropped


def shown(example: Example) -> str:
    """The prompt as people read it: its last message."""
    if example.prompt is not None:
        return example.prompt
    assert example.messages
    return example.messages[-1]["content"]
