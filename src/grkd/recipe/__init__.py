"""A run, as typed dataclasses (a file per task), read strictly from YAML and `key=value` arguments and written back."""

from grkd.recipe._classifier import (
    ClassifierData,
    ClassifierEvaluation,
    ClassifierModel,
    ClassifierRecipe,
    Lockstep,
    RankedLabels,
)
from grkd.recipe._language import (
    CachedTeacher,
    LanguageEvaluation,
    LanguageRecipe,
    Lora,
    Mixture,
    Model,
    ModelOfSeveral,
    Prompts,
    Responses,
    Score,
    SelfTeacher,
    ServedModel,
    ServedOfSeveral,
    Student,
    Teacher,
)
from grkd.recipe._rank import RankData, RankEvaluation, RankRecipe, RankServed, RankStudent, RankTeacher
from grkd.recipe._read import read
from grkd.recipe._recipe import Recipe
from grkd.recipe._reference import reference
from grkd.recipe._sections import Method, Search, Section, Training
from grkd.recipe._teachers import label_of, lead, rankers_of, shows_tokens, teachers_of, weights_of
from grkd.recipe._write import dump, schema, to_plain

__all__ = [
    "CachedTeacher",
    "ClassifierData",
    "ClassifierEvaluation",
    "ClassifierModel",
    "ClassifierRecipe",
    "LanguageEvaluation",
    "LanguageRecipe",
    "Lockstep",
    "Lora",
    "Method",
    "Mixture",
    "Model",
    "ModelOfSeveral",
    "Prompts",
    "RankData",
    "RankEvaluation",
    "RankRecipe",
    "RankServed",
    "RankStudent",
    "RankTeacher",
    "RankedLabels",
    "Recipe",
    "Responses",
    "Score",
    "Search",
    "Section",
    "SelfTeacher",
    "ServedModel",
    "ServedOfSeveral",
    "Student",
    "Teacher",
    "Training",
    "dump",
    "label_of",
    "lead",
    "rankers_of",
    "read",
    "reference",
    "schema",
    "shows_tokens",
    "teachers_of",
    "to_plain",
    "weights_of",
]
