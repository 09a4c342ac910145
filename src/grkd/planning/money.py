"""What a served teacher and judges cost: requests and tokens, and USD if prices are given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grkd import objectives
from grkd.recipe import LanguageRecipe, ServedModel, label_of

_QUESTION = 250  # tokens of a judge's instructions
_VERDICT = 16  # tokens of its answer


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Requests, and tokens read and written."""

    requests: int = 0
    read: float = 0.0
    written: float = 0.0

    def cost(self, price_read: float, price_written: float) -> float:
        """USD. price_read, price_written: USD per million tokens."""
        return (self.read * price_read + self.written * price_written) / 1e6


def usage(
    recipe: LanguageRecipe, *, prompts: int, prompt_tokens: float, response_tokens: float, steps: int = 0
) -> dict[str, Usage]:
    """What endpoints are asked for, by what asks. prompt_tokens, response_tokens: means.

    steps: of one training, for rankers that are asked in it; of all final runs, without the trials of a search.
    """
    teacher, responses = recipe.teacher, recipe.responses
    found: dict[str, Usage] = {}
    mixed = responses.mixture.teacher if responses.mixture is not None else 0
    written = responses.n if responses.source == "teacher" else mixed
    teachers = teacher if isinstance(teacher, list) else [teacher]
    for at, one in enumerate(teachers):
        if not isinstance(one, ServedModel):
            continue
        name = f"teacher {label_of(one)}" if isinstance(teacher, list) else "teacher"
        if written and at == 0:  # of several the first writes
            number = prompts * (responses.candidates or written)
            read, said = number * prompt_tokens, number * response_tokens
            found[f"responses of the {name}"] = Usage(requests=number, read=read, written=said)
        if one.log_probs:
            number = prompts * responses.n
            both = number * (prompt_tokens + response_tokens)
            found[f"log-probabilities of the {name}"] = Usage(requests=number, read=both, written=float(number))
    tokens = (prompt_tokens, response_tokens)
    for name, entry in _judges(recipe.score.rankers or _implied(recipe)):
        found[name] = _judged(entry, prompts, responses.n, *tokens)
    for method in recipe.methods if responses.when == "in_training" else ():
        if "response" not in objectives.load(method.name, **method.options).levels:
            continue
        groups = _new_groups(recipe, steps)
        for name, entry in _judges(method.rankers or recipe.score.rankers or _implied(recipe)):
            found[f"{name}, in training of {method.label}"] = _judged(entry, groups, responses.n, *tokens)
    return found


def _judges(entries: Sequence[Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Those of a list of rankers that ask an endpoint for a verdict, with their names here."""
    plain = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]
    return [(f"judge {one.get('label', '')}".strip(), one) for one in plain if one.get("name") == "judge"]


def _new_groups(recipe: LanguageRecipe, steps: int) -> int:
    """Groups that are sampled and ranked in all trainings of one method."""
    training = recipe.training
    prompts = steps * training.batch_size * training.gradient_accumulation
    return round(prompts * (1 - recipe.responses.stored_share)) * len(recipe.seeds)


def _implied(recipe: LanguageRecipe) -> list[str]:
    """The ranker of a teacher that gives text alone."""
    text_only = isinstance(recipe.teacher, ServedModel) and not recipe.teacher.log_probs
    return ["judge"] if text_only and recipe.score.reward is None and recipe.responses.n > 1 else []


def _judged(plain: Mapping[str, Any], prompts: int, n: int, prompt_tokens: float, response_tokens: float) -> Usage:
    """Both orders of every pair, or all responses of a group in two orders."""
    pairs = plain.get("ask", "list") == "pairs"
    questions, shown = (n * (n - 1), 2) if pairs else (2, n)
    number = prompts * questions
    read = number * (_QUESTION + prompt_tokens + shown * response_tokens)
    return Usage(requests=number, read=read, written=float(number * _VERDICT))
