"""Vocabularies of a recipe: what later stages know of the student's, and which methods need it to be the teacher's."""

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grkd import objectives
from grkd.data.chat import stop_token_ids
from grkd.errors import UserError
from grkd.models.load import context_length, vocabulary_size
from grkd.recipe import LanguageRecipe

_NO_LIMIT = 1 << 20  # context of a model whose config names none


def token_numbers(
    tokenizer: PreTrainedTokenizerBase, student: PreTrainedModel, teacher: PreTrainedModel | None
) -> dict[str, Any]:
    """Numbers about the student's tokenizer, as tokens.json has them; teacher: if it shares the tokenizer.

    Raises UserError for a tokenizer without an end, and for a head with fewer outputs than tokens.
    """
    stop_ids = stop_token_ids(tokenizer, student.generation_config)
    if not stop_ids:
        raise UserError("student: neither its tokenizer nor its generation config names an end-of-sequence token")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0]
    vocabulary = vocabulary_size(tokenizer)
    sharing = {"student": student} if teacher is None else {"teacher": teacher, "student": student}
    for side, model in sharing.items():
        check_head(side, model, vocabulary)
    contexts = [context_length(model) or _NO_LIMIT for model in sharing.values()]
    # A teacher that was tuned for chat may end its turns where an untuned student's tokenizer names no end.
    of_teacher = [] if teacher is None else stop_token_ids(tokenizer, teacher.generation_config)
    return {
        "stop_ids": stop_ids,
        "teacher_stop_ids": list(dict.fromkeys([*stop_ids, *of_teacher])),
        "pad_token_id": pad,
        "vocabulary": vocabulary,
        "context": min(contexts),
    }


def check_head(side: str, model: PreTrainedModel, vocabulary: int) -> None:
    """Raises UserError for a head with fewer outputs than tokens."""
    head = model.get_output_embeddings().weight.shape[0]
    if head < vocabulary:
        raise UserError(f"{side}: its head has {head} outputs, its tokenizer {vocabulary} tokens")


def needs_one_vocabulary(recipe: LanguageRecipe, *, several: bool) -> str:
    """What to change in a recipe whose methods take tokens across, as words; empty if none does.

    The teacher's responses need no shared tokens: the student gets them as text.
    """
    crossing = recipe.score.other_vocabulary == "tokens" and not several
    crosses = {}  # of the methods that compare tokens: whether those may be of two vocabularies
    for method in recipe.methods:
        objective = objectives.load(method.name, **method.options)
        if ("row" in objective.levels and objective.needs_teacher) or objective.teacher_mixed_in > 0:
            crosses[method.label] = objective.across_vocabularies is not None
    left = [label for label, able in crosses.items() if not (crossing and able)]
    if not left:
        return ""
    instead = "dpo, simpo, grkd with level: response in every part, or others that compare responses"
    able = not several and all(crosses[label] for label in left)
    tokens = " (or set score.other_vocabulary: tokens)" if able else ""
    return f"replace {', '.join(left)}, compared token by token, by {instead}{tokens}"
