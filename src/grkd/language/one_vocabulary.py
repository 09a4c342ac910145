"""Methods of a recipe that need teacher and student to have one vocabulary, and what may take their place."""

from grkd import objectives
from grkd.recipe import LanguageRecipe


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
