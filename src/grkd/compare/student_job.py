"""One student of a run or a comparison: its method with options, its seed, its learning rate."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from grkd.compare.search import Space
from grkd.recipe import Method, Recipe
from grkd.run.folder import own_code


@dataclass(frozen=True, kw_only=True)
class StudentJob:
    """One student to train, in this process or another, which opens the run by the recipe alone.

    trial: number of a trial of a search; None is a final run.
    """

    recipe: Recipe
    method: Method  # with the options of this student
    seed: int
    learning_rate: float
    trial: int | None = None

    @property
    def name(self) -> str:
        return final_name(self.method, self.seed) if self.trial is None else f"{self.method.label}-trial{self.trial}"

    @property
    def method_identity(self) -> dict[str, Any]:
        return with_code({"name": self.method.name, "options": self.method.options})

    @property
    def settings(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, **self.method.options}


Job = TypeVar("Job", bound=StudentJob)


def job_at(
    kind: type[Job], recipe: Recipe, method: Method, settings: Mapping[str, Any], trial: int | None = None
) -> Job:
    """A method with settings of the search, at the search's seed."""
    options = {name: value for name, value in settings.items() if name != "learning_rate"}
    method = replace(method, options={**method.options, **options})
    rate, seed = settings["learning_rate"], recipe.seeds[0]
    return kind(recipe=recipe, method=method, seed=seed, learning_rate=rate, trial=trial)


def with_code(method: Mapping[str, Any]) -> dict[str, Any]:
    """What a method is: its name and options, and the code of what is the user's own among them."""
    code = own_code(method)
    return {**method, **({"code": code} if code else {})}


def final_name(method: Method, seed: int) -> str:
    """The name of a final run, and of its folders."""
    return f"{method.label}-seed{seed}"


def space(recipe: Recipe, method: Method) -> Space:
    """What the search may set for a method: the learning rate, and its options that the recipe lists."""
    assert recipe.search is not None
    rates = recipe.search.learning_rate or [recipe.training.learning_rate]
    return {"learning_rate": list(rates), **recipe.search.options.get(method.label, {})}
