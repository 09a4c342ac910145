"""The runs of a comparison of classifiers: what each is, what it depends on, and which are on disk already."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grkd.classify.lockstep_data import Comparison
from grkd.compare import search as _search
from grkd.files import digest, read_json
from grkd.recipe import ClassifierRecipe, Method, Search, to_plain
from grkd.run.folder import identity

# Of the training section: a run has a learning rate of its own, and the rest changes no student.
_NO_EFFECT = ("learning_rate", "log_every", "save_every", "steps_per_generation", "fused_head", "report_to")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One student: a try of the search (`number`), or, where that is None, a run that counts."""

    method: Method  # with the options of this run
    seed: int
    learning_rate: float
    number: int | None = None

    @property
    def name(self) -> str:
        kind = f"seed{self.seed}" if self.number is None else f"try{self.number}"
        return f"{self.method.label}-{kind}"

    @property
    def settings(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, **self.method.options}


def space(recipe: ClassifierRecipe, method: Method) -> _search.Space:
    """What the search may set for a method: the learning rate, and its options that the recipe lists."""
    assert recipe.search is not None
    rates = recipe.search.learning_rate or [recipe.training.learning_rate]
    return {"learning_rate": list(rates), **recipe.search.options.get(method.label, {})}


def metric(search: Search) -> str:
    """What the search goes by."""
    return search.metric or "accuracy"


def make_run(comparison: Comparison, method: Method, settings: Mapping[str, Any], number: int | None) -> Run:
    """A method's run with settings of the search, at the search's seed."""
    options = {name: value for name, value in settings.items() if name != "learning_rate"}
    tried = replace(method, options={**method.options, **options})
    rate = settings["learning_rate"]
    return Run(method=tried, seed=comparison.recipe.seeds[0], learning_rate=rate, number=number)


def records(comparison: Comparison, label: str) -> list[dict[str, Any]]:
    """The method's tries on disk that the recipe still asks for, made from the same data and teacher, in order."""
    found = [read_json(path) for path in try_file(comparison, label, 0).parent.glob("try*.json")]
    method = next(method for method in comparison.recipe.methods if method.label == label)
    points = _search.grid(space(comparison.recipe, method))
    valid = [
        record
        for record in found
        if record["settings"] in points
        and record["key"] == key(comparison, make_run(comparison, method, record["settings"], record["number"]))
    ]
    assert comparison.recipe.search is not None
    # An earlier command may have asked for more: every method has the same number.
    return sorted(valid, key=lambda record: int(record["number"]))[: comparison.recipe.search.trials]


def try_file(comparison: Comparison, label: str, number: int) -> Path:
    return comparison.run.path / "search" / label / f"try{number}.json"


def is_done(comparison: Comparison, one: Run) -> bool:
    """Whether a run that counts is on disk, made from the same settings, data and teacher."""
    manifest = comparison.run.path / "train" / one.name / "manifest.json"
    metrics = comparison.run.path / "evaluate" / one.name / "metrics.json"
    return manifest.exists() and metrics.exists() and read_json(manifest)["key"] == key(comparison, one)


def key(comparison: Comparison, one: Run) -> str:
    """Digest of all that a run's result depends on."""
    recipe = comparison.recipe
    of_search = ("search_epochs", "prune") if one.number is None else ()
    left_out = ("students", "teachers", *of_search)
    lockstep = {name: value for name, value in to_plain(recipe.lockstep).items() if name not in left_out}
    training = {name: value for name, value in to_plain(recipe.training).items() if name not in _NO_EFFECT}
    inputs = {
        "student": identity(recipe.student),
        "training": training,
        "lockstep": lockstep,
        "method": {"name": one.method.name, "options": one.method.options},
        "learning_rate": one.learning_rate,
        "seed": one.seed,
        "student_limit": recipe.data.student_limit,
        **comparison.keys(),
    }
    if one.number is None:
        return digest(inputs | {"evaluation": to_plain(recipe.evaluation)})
    assert recipe.search is not None
    return digest(inputs | {"metric": metric(recipe.search), "fraction": recipe.search.validation_fraction})
