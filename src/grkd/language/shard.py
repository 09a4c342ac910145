"""What the samplers of the respond stage share: a shard of prompts, and the way from a text to the student's tokens."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grkd.data.chat import encode_response
from grkd.data.prompts import restored
from grkd.data.template import NotRendered
from grkd.data.thoughts import of_channels
from grkd.language.models import LanguageModels
from grkd.recipe import LanguageRecipe


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Prompts that one sampler answers.

    number: of the shard, which seeds its draws. progress: told of every answer, as responses and new tokens. counts:
    what is to be counted of the shard; samplers add to it. journal: where answers may be kept as they come, see
    grkd.answers.kept.
    """

    prompts: Sequence[dict[str, Any]]
    number: int
    progress: Callable[[int, int], None]
    counts: Counter[str]
    journal: Path

    def part(self, name: str, prompts: Sequence[dict[str, Any]] | None = None) -> "Shard":
        """With a journal of its own; prompts: those alone."""
        journal = self.journal.with_name(f"{self.journal.stem}-{name}.jsonl")
        return replace(self, journal=journal, prompts=self.prompts if prompts is None else prompts)


ShardSampler = Callable[[Shard], list[list[list[int]]]]  # token ids of the responses to each prompt


def student_ids_of(
    models: LanguageModels, recipe: LanguageRecipe, prompt: dict[str, Any], text: str, *, finished: bool
) -> list[int]:
    """Token ids of a response to a prompt's record; none if the student's chat template cannot write it.

    Of a text with channels the final one is the answer and the others are thoughts, if the student's template has a
    place for them. finished: it ended by itself, so that a stop token is its last.
    """
    ids: list[int] = []
    message = of_channels(text)
    forms = [text] if message is None else [message, message["content"]]
    for form in forms:
        try:
            ids = encode_response(
                models.tokenizer,
                restored(prompt, completion=form),
                stop_ids=models.numbers["stop_ids"],
                system=recipe.data.system,
            )
            break
        except NotRendered:
            continue
    if not finished:  # the teacher was cut short: no stop token that it did not write
        ids = ids[:-1]
    return ids[: recipe.responses.max_new_tokens]
