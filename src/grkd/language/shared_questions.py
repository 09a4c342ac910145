"""Questions as prompts, and those that are training prompts too: known by heart, they make a student look better."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from grkd.console import console
from grkd.data.chat import encode_prompt
from grkd.data.language import Group
from grkd.data.prompts import Example
from grkd.language.context import LanguageContext
from grkd.metrics.exact_match import QuestionAndAnswer, read_questions


def prompts_of_questions(context: LanguageContext, questions: Sequence[QuestionAndAnswer]) -> list[list[int]]:
    """Token ids of questions as the data's prompts are written: with its system message and template variables."""
    data = context.recipe.data
    options = data.chat_template_kwargs or None
    return [
        encode_prompt(
            context.models.tokenizer,
            Example(id=each.id, prompt=each.question, template_options=options),
            system=data.system,
        )
        for each in questions
    ]


def say_shared_questions(
    context: LanguageContext,
    section: Literal["evaluation", "search"],
    groups: Callable[[], Sequence[Group]],
    *,
    harm: str,
) -> None:
    """Say how many of a section's questions are prompts of the training groups, which are read if there are any."""
    asked = getattr(context.recipe, section)
    if asked is None or asked.questions is None or not context.run.ranks.is_main_process:
        return
    prompts = {tuple(group.items[0].prompt_ids) for group in groups()}
    ids = list(map(tuple, prompts_of_questions(context, read_questions(Path(asked.questions)))))
    if shared := sum(each in prompts for each in ids):
        console.print(
            f"[yellow]{section}.questions: {shared} of {len(ids)} are also prompts of data.train, so {harm}; remove "
            "them from one of the two files[/yellow]"
        )
