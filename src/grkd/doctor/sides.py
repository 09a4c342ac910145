"""What is known of a language recipe without weights: tokenizers, configs, the data's examples as token ids."""

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.prompts import Example
from grkd.data.template import NotRendered
from grkd.errors import UserError
from grkd.language.examples import data_examples
from grkd.language.models import config_of, tokenizer_of
from grkd.models.load import check_same_vocabulary, load_tokenizer
from grkd.recipe import LanguageRecipe, Model, Student, weights_of

ENCODED = 400  # examples that are tokenised
_RECORDS = 20_000


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """An example as the student's token ids. answers: those of the data, in full."""

    split: str
    example: Example
    prompt_ids: list[int]
    answers: list[list[int]]


@dataclass(kw_only=True)
class Sides:
    """Teacher and student before weights are loaded. own: the teacher's tokenizer if its vocabulary is another one."""

    recipe: LanguageRecipe
    tokenizer: PreTrainedTokenizerBase
    teacher_tokenizer: PreTrainedTokenizerBase | None  # None: served, and said to have the student's
    config: Any
    teacher_config: Any
    examples: list[tuple[str, Example]]
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, recipe: LanguageRecipe) -> "Sides":
        """Load tokenizers, configs and (of large data: the first) records."""
        weights, student = weights_of(recipe), recipe.student
        served = getattr(recipe.teacher, "tokenizer", None)
        teacher_tokenizer = load_tokenizer(served) if served else None if weights is None else tokenizer_of(weights)
        tokenizer = tokenizer_of(student) if student.model is not None else teacher_tokenizer
        assert tokenizer is not None
        limit = min(recipe.data.limit or _RECORDS, _RECORDS)
        config = None if weights is None else config_of(weights)
        return cls(
            recipe=recipe,
            tokenizer=tokenizer,
            teacher_tokenizer=teacher_tokenizer,
            config=config_of(student) if student.model is not None else config,
            teacher_config=config,
            examples=data_examples(replace(recipe, data=replace(recipe.data, limit=limit)), None),
        )

    @cached_property
    def shared(self) -> bool:
        """Whether teacher and student have one vocabulary."""
        if self.teacher_tokenizer is None or self.teacher_tokenizer is self.tokenizer:
            return True
        try:
            check_same_vocabulary(self.teacher_tokenizer, self.tokenizer)
        except UserError:
            return False
        return True

    @cached_property
    def stop_ids(self) -> list[int]:
        """The student's. Raises UserError if it has none."""
        return stop_token_ids(self.tokenizer, generation_config(self.recipe.student))

    @cached_property
    def encoded(self) -> list[Encoded]:
        """The first examples of both splits; those that the template cannot write are counted in `left_out`."""
        found = []
        system = self.recipe.data.system
        chosen = [one for split in ("train", "heldout") for one in self._of(split)[: ENCODED // 2]]
        for split, example in chosen:
            try:
                prompt_ids = encode_prompt(self.tokenizer, example, system=system)
                answers = [self._answer(example, answer) for answer in example.answers]
            except NotRendered as error:
                self.left_out[error.reason] += 1
                continue
            found.append(Encoded(split=split, example=example, prompt_ids=prompt_ids, answers=answers))
        return found

    def _of(self, split: str) -> list[tuple[str, Example]]:
        return [one for one in self.examples if one[0] == split]

    def _answer(self, example: Example, answer: Any) -> list[int]:
        alone = replace(example, completion=answer, responses=None, scores=None)
        system = self.recipe.data.system
        return encode_response(self.tokenizer, alone, stop_ids=self.stop_ids, system=system, notes=self.notes)

    @property
    def context(self) -> int | None:
        """Tokens that the student reads at most, by its config."""
        return _context(self.config)

    @property
    def teacher_context(self) -> int | None:
        return _context(self.teacher_config)


def generation_config(spec: Model | Student) -> GenerationConfig | None:
    """The model's own, or None if it has none at hand."""
    if spec.model is None or spec.gguf_file is not None or spec.model.endswith(".gguf"):
        return None
    try:
        return GenerationConfig.from_pretrained(spec.model, local_files_only=True)
    except (OSError, ValueError):
        return None


def _context(config: Any) -> int | None:
    found = None if config is None else getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found if isinstance(found, int) else None
