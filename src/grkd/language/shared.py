"""The stages of a language model that all its methods share: each is made once."""

from grkd.language import evaluate as language_evaluation
from grkd.language import prepare as language_prompts
from grkd.language import reference as language_rows
from grkd.language import respond as language_responses
from grkd.language import score as language_scores
from grkd.language.context import LanguageModels
from grkd.recipe import LanguageRecipe
from grkd.run.folder import RunFolder
from grkd.run.results import describe
from grkd.run.training import check


def shared_stages(recipe: LanguageRecipe, run: RunFolder) -> LanguageModels:
    """Prompts, responses, scores, the reference where a method needs it, and the figures before training."""
    models = LanguageModels(recipe, run)
    language_prompts.prepare(recipe, run, models)
    check(recipe.training, recipe.methods, models.numbers["vocabulary"])
    describe(recipe, run)
    language_responses.respond(recipe, run, models)
    language_scores.score(recipe, run, models)
    if recipe.responses.when == "before" and language_rows.needs_reference(recipe.methods):
        language_rows.reference(recipe, run, models)
    language_evaluation.evaluate_student(recipe, run, models, "before", None)
    language_evaluation.evaluate_teacher(recipe, run, models)
    return models
