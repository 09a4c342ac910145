"""A run, as typed dataclasses (`_tree`), read strictly from YAML and `key=value` words (`read`) and written back."""

from grkd.recipe._read import read
from grkd.recipe._tree import (
    ClassifierData,
    ClassifierEvaluation,
    ClassifierModel,
    ClassifierRecipe,
    LanguageEvaluation,
    LanguageRecipe,
    Lora,
    Method,
    Mixture,
    Model,
    Prompts,
    Recipe,
    Responses,
    Score,
    Search,
    Section,
    Student,
    Training,
)
from grkd.recipe._write import dump, schema, to_plain

__all__ = [
    "ClassifierData",
    "ClassifierEvaluation",
    "ClassifierModel",
    "ClassifierRecipe",
    "LanguageEvaluation",
    "LanguageRecipe",
    "Lora",
    "Method",
    "Mixture",
    "Model",
    "Prompts",
    "Recipe",
    "Responses",
    "Score",
    "Search",
    "Section",
    "Student",
    "Training",
    "dump",
    "read",
    "schema",
    "to_plain",
]
