"""The stages of a language model that all its methods share: each is made once."""

from grkd.recipe import LanguageRecipe
from grkd.stages import language_evaluation, language_prompts, language_responses, language_rows, language_scores
from grkd.stages._folder import RunFolder
from grkd.stages._models import LanguageModels
from grkd.stages._results import describe
from grkd.stages._train import check


def shared_stages(recipe: LanguageRecipe, run: RunFolder) -> LanguageModels:
    """Prompts, responses, scores, the reference where a method needs it, and the figures before training."""
    models = LanguageModels(recipe, run)
    language_prompts.prepare(recipe, run, models)
    check(recipe.training, recipe.methods, models.numbers["vocabulary"])
    describe(recipe, run)
    language_responses.respond(recipe, run, models)
    language_scores.score(recipe, run, models)
    if language_rows.needs_reference(recipe.methods):
        language_rows.reference(recipe, run, models)
    language_evaluation.evaluate_student(recipe, run, models, "before", None)
    language_evaluation.evaluate_teacher(recipe, run, models)
    return models
