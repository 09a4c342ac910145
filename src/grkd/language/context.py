"""What the stages of a language model share: the recipe, the run's folder, and the models."""

from dataclasses import dataclass, replace

from grkd.language.models import LanguageModels
from grkd.recipe import LanguageRecipe
from grkd.run.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class LanguageContext:
    """Everything that a stage needs; another process opens it by the recipe alone."""

    recipe: LanguageRecipe
    run: RunFolder
    models: LanguageModels

    @classmethod
    def open(cls, recipe: LanguageRecipe, run: RunFolder) -> "LanguageContext":
        """The context of a run in this folder; models are loaded when a stage asks for them."""
        return cls(recipe=recipe, run=run, models=LanguageModels(recipe, run))

    @property
    def teachers(self) -> "dict[str, LanguageContext]":
        """Of several teachers: by label, the context with each alone. Empty with one teacher."""
        return {
            label: replace(self, recipe=member.recipe, models=member) for label, member in self.models.members.items()
        }

    def with_recipe(self, recipe: LanguageRecipe) -> "LanguageContext":
        """The same run and models with other settings, such as those of one method of a comparison."""
        return replace(self, recipe=recipe)
