"""Methods of a recipe that need teacher and student to have one vocabulary, and what may take their place."""

from grkd import objectives
from grkd.recipe import LanguageRecipe, Method


def needs_one_vocabulary(recipe: LanguageRecipe, *, several: bool) -> str:
    """What to change in a recipe whose methods take tokens across, as words; empty if none does.

    The teacher's responses need no shared tokens: the student gets them as text.
    """
    crossing = recipe.score.other_vocabulary == "tokens" and not several
    by_token = [method for method in recipe.methods if _compares_tokens(method)]
    left = [method for method in by_token if not (crossing and _crosses(method))]
    instead = "dpo, simpo, grkd with level: response in every part, or others that compare responses"
    if not left:
        return ""
    tokens = " (or set score.other_vocabulary: tokens)" if not several and all(map(_crosses, left)) else ""
    labels = ", ".join(method.label for method in left)
    return f"replace {labels}, compared token by token, by {instead}{tokens}"


def _crosses(method: Method) -> bool:
    return objectives.load(method.name, **method.options).across_vocabularies is not None


def _compares_tokens(method: Method) -> bool:
    objective = objectives.load(method.name, **method.options)
    return ("row" in objective.levels and objective.needs_teacher) or objective.teacher_mixed_in > 0
