"""The stages of a language model in their order: those before training, which methods share, then each student's."""

from grkd import objectives
from grkd.language.context import LanguageContext
from grkd.language.evaluate import evaluate_student, evaluate_teacher
from grkd.language.fresh import samples_groups
from grkd.language.prepare import prepare
from grkd.language.reference import needs_reference, reference
from grkd.language.respond import respond
from grkd.language.rows import learnable_groups
from grkd.language.score import read_groups, score
from grkd.language.train import train_student
from grkd.recipe import LanguageRecipe, Method
from grkd.run.folder import RunFolder
from grkd.run.results import describe
from grkd.run.training import check


def before_training(recipe: LanguageRecipe, run: RunFolder, *, all_learn: bool = False) -> LanguageContext:
    """Prompts, responses, scores, the reference if a method needs it, and the metrics before training: made once.

    all_learn: raise UserError for a method that no group teaches anything, before a student of another one is trained.
    """
    context = LanguageContext.open(recipe, run)
    prepare(context)
    check(recipe.training, recipe.methods, context.models.numbers["vocabulary"])
    describe(recipe, run)
    respond(context)
    score(context)
    if all_learn:
        _check_groups(context)
    if recipe.responses.when == "before" and needs_reference(recipe.methods):
        reference(context)
    evaluate_student(context, "before", None)
    evaluate_teacher(context)
    return context


def _check_groups(context: LanguageContext) -> None:
    groups = read_groups(context.run, "train")
    for method in context.recipe.methods:
        objective = objectives.load(method.name, **method.options)
        if not samples_groups(context.recipe, objective):
            learnable_groups(method, objective, groups)


def distil(context: LanguageContext, method: Method, seed: int) -> None:
    """Train and evaluate one student."""
    name = f"{method.label}-seed{seed}"
    train_student(context, method, seed)
    evaluate_student(context, name, name)
