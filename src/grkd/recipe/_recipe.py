"""A run, as typed dataclasses: a recipe per task."""

from grkd.recipe._classifier import ClassifierRecipe
from grkd.recipe._language import LanguageRecipe
from grkd.recipe._rank import RankRecipe

Recipe = LanguageRecipe | ClassifierRecipe | RankRecipe
