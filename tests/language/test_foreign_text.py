"""What a teacher with another vocabulary wrote, as the student's token ids."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from grkd.data.chat import stop_token_ids
from grkd.language.models import LanguageModels
from grkd.language.record_columns import record_columns
from grkd.language.sampling import ForeignSampler
from grkd.models.generate import Response
from grkd.recipe import LanguageRecipe, read
from grkd.teacher.in_own_words import items_in_own_words
from tests.data.test_templates import ASK, ASK_THINKING, FIELDS, TURNS, bytewise

CHANNELS = "<|channel|>analysis<|message|>easy<|end|><|start|>assistant<|channel|>final<|message|>yes"


class Models(LanguageModels):
    """A student's tokenizer and its stop tokens, without a run."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def numbers(self) -> dict[str, Any]:
        return {"stop_ids": stop_token_ids(self.tokenizer)}


class Recipe(LanguageRecipe):
    """What is read of a recipe here."""

    def __init__(self) -> None:
        for name, value in {"data": {"system": None}, "responses": {"max_new_tokens": 1000}}.items():
            object.__setattr__(self, name, SimpleNamespace(**value))


def crossed(template: str, text: str, *, opened: str = "", finished: bool = True) -> str:
    """The student's text of a response that the teacher wrote with markers of its own."""
    teacher = bytewise(ASK, "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>")
    student: Any = bytewise(template)
    sampler: Any = object.__new__(ForeignSampler)
    sampler.own, sampler.stop_ids = teacher, [teacher.convert_tokens_to_ids("<|return|>")]
    sampler.opened = {"train/1": opened}
    sampler.models = Models(student)
    sampler.recipe = Recipe()
    ids = teacher(text + ("<|return|>" if finished else ""))["input_ids"]
    prompt = {"id": "train/1", "messages": '[{"role": "user", "content": "2+2?"}]', "context": None}
    found = sampler._student_ids(prompt, Response(index=0, response_ids=ids, finished=finished))
    return str(student.decode(found))


@pytest.mark.parametrize(
    ("template", "text", "opened", "expected"),
    [
        (TURNS + ASK, "yes", "", "yes<|im_end|>"),
        (TURNS + ASK, CHANNELS, "", "yes<|im_end|>"),
        (FIELDS + ASK, CHANNELS, "", "<think>\neasy\n</think>\n\nyes<|im_end|>"),
        (FIELDS + ASK_THINKING, CHANNELS, "", "easy\n</think>\n\nyes<|im_end|>"),
        (TURNS + ASK, "easy\n</think>\n\nyes", "<think>\n", "<think>\neasy\n</think>\n\nyes<|im_end|>"),
        (TURNS + ASK, "<|start|>tool<|message|>x", "", "<|start|>tool<|message|>x<|im_end|>"),
        (TURNS + ASK, "say <|im_end|> twice", "", "say <|im_end|> twice<|im_end|>"),
        (FIELDS + ASK_THINKING, "yes", "", ""),
    ],
)
def test_markers_become_thoughts_or_stay(template: str, text: str, opened: str, expected: str) -> None:
    assert crossed(template, text, opened=opened) == expected


def test_what_was_cut_has_no_stop_token() -> None:
    assert crossed(TURNS + ASK, "yes and", finished=False) == "yes and"
    assert crossed(TURNS + ASK, "easy and", opened="<think>\n", finished=False) == "", "a thought without an end"


def test_a_teacher_of_another_vocabulary_reads_the_recipes_template_variables(tiny_recipe: Path) -> None:
    """By the columns that rankers pass on: a record's own come before those for all."""
    records = [{"prompt": "hi"}, {"prompt": "hi", "chat_template_kwargs": {"mood": "sad"}}, {"prompt": "no"}]
    path = tiny_recipe.parent / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    recipe = read(tiny_recipe, [f"data.train={path}", f"data.heldout={path}", "data.chat_template_kwargs={mood: glad}"])
    assert isinstance(recipe, LanguageRecipe)
    columns = [data.columns for data in record_columns(recipe).values()][:2]
    teacher = bytewise(TURNS + "{% if add_generation_prompt %}{{ mood }}:{% endif %}")
    found = items_in_own_words(
        teacher,
        ["hi", "hi"],
        [["yes"], ["yes"]],
        {"chat_template_kwargs": [each.get("chat_template_kwargs") for each in columns]},
        stop_ids=stop_token_ids(teacher),
        context=None,
    )
    assert [str(teacher.decode(item.prompt_ids)).rpartition("\n")[2] for item in found] == ["glad:", "sad:"]
