"""`grkd compare` for classifiers: a search with the same number of tries for every method, then the runs that count."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from grkd import objectives
from grkd.classify.lockstep_data import Comparison, refuse
from grkd.classify.lockstep_training import NOT_FINITE, Pack, heldout, train_pack
from grkd.classify.metrics import ON_VALIDATION, figures
from grkd.classify.stages import check_teacher
from grkd.classify.trials import Run, is_done, make_run, metric, records, space, try_file
from grkd.compare import search as _search
from grkd.console import console
from grkd.errors import UserError
from grkd.files import read_json, write_json
from grkd.metrics.registry import higher_is_better
from grkd.recipe import ClassifierRecipe, Method, to_plain
from grkd.run.folder import RunFolder
from grkd.run.jobs import DONE, NOT_YET, run_jobs
from grkd.run.results import collect, describe
from grkd.training.lockstep.student import check_for_classes

Until = Literal["teach", "search", "finals"]


def compare_classifier(
    recipe: ClassifierRecipe,
    run: RunFolder,
    *,
    processes: int = 1,
    minutes: float | None = None,
    until: Until = "finals",
) -> dict[str, str]:
    """Data, teacher, search, runs that count; what is whole already is kept. Returns the outcome of each run.

    processes: that share the device, each training its students in lock-step. minutes: after which no further students
    are begun (those in training end). until: stop after the teacher or the search.
    Writes search.json after every pack of tries, results.json after every pack of runs, and for every run
    train/<label>-seed<n>/ and evaluate/<label>-seed<n>/metrics.json.
    Raises UserError for a recipe that does not fit.
    """
    deadline = None if minutes is None else time.time() + 60 * minutes
    refuse(recipe.training, "training")
    _check_search(recipe)
    for method in recipe.methods:
        check_for_classes(method.label, objectives.load(method.name, **method.options))
    check_teacher(recipe)
    comparison = Comparison(recipe, run)
    comparison.prepare()
    classes = len(read_json(run.path / "prepare" / "classes.json"))
    for method in recipe.methods:
        objectives.load(method.name, **method.options).check_candidates(classes)
    describe(recipe, run)
    comparison.teach()
    _measure_teacher(comparison)
    if until == "teach":
        return {f"{method.label}-seed{seed}": NOT_YET for method in recipe.methods for seed in recipe.seeds}
    best = _searched(comparison, processes, deadline)
    if until == "finals":
        _finals(comparison, best, processes, deadline)
    return _status(comparison, best)


def _searched(comparison: Comparison, processes: int, deadline: float | None) -> dict[str, Run]:
    """The best settings of each method; one whose search is not over, or of which every try failed, is missing."""
    recipe, search = comparison.recipe, comparison.recipe.search
    if search is None:
        (comparison.run.path / "search.json").unlink(missing_ok=True)  # an older recipe's
        rate, seed = recipe.training.learning_rate, recipe.seeds[0]
        return {m.label: Run(method=m, seed=seed, learning_rate=rate) for m in recipe.methods}
    for method in recipe.methods:  # one that failed is tried again
        for record in records(comparison, method.label):
            if record["failure"] not in (None, NOT_FINITE):  # that would happen again: it is a try like others
                try_file(comparison, method.label, record["number"]).unlink()
    while True:
        runs = [one for method in recipe.methods for one in _next_tries(comparison, method)]
        before = _count(comparison)
        _train(comparison, runs, processes, deadline, search=True, note=lambda: _write_search(comparison))
        if not runs or _count(comparison) == before:
            break
    best = {}
    maximise = higher_is_better(metric(search))
    for method in recipe.methods:
        valued = [record for record in records(comparison, method.label) if record["value"] is not None]
        if valued and not _next_tries(comparison, method):
            chosen = (max if maximise else min)(valued, key=lambda record: record["value"])
            best[method.label] = make_run(comparison, method, chosen["settings"], None)
    _write_search(comparison)
    return best


def _count(comparison: Comparison) -> int:
    return sum(len(records(comparison, method.label)) for method in comparison.recipe.methods)


def _next_tries(comparison: Comparison, method: Method) -> list[Run]:
    """The method's next tries: the first half of the search at once, then a quarter at a time; a whole grid at once."""
    search, axes = comparison.recipe.search, space(comparison.recipe, method)
    assert search is not None
    done = records(comparison, method.label)
    first = (search.trials + 1) // 2 - len(done)
    a_time = first if first > 0 else max(1, search.trials // 4)
    proposed = _search.propose(
        axes,
        [(record["settings"], record["value"]) for record in done],
        trials=search.trials,
        count=search.trials if len(_search.grid(axes)) <= search.trials else a_time,
        seed=comparison.recipe.seeds[0],
        maximise=higher_is_better(metric(search)),
    )
    taken = {record["number"] for record in done}
    free = [number for number in range(search.trials + len(taken)) if number not in taken]
    return [make_run(comparison, method, settings, free[place]) for place, settings in enumerate(proposed)]


def _measure_teacher(comparison: Comparison) -> None:
    inputs = {**comparison.keys(), "evaluation": to_plain(comparison.recipe.evaluation)}

    def make(work: Path) -> None:
        on = heldout(comparison, teacher=False)
        said = comparison.said
        write_json(work / "metrics.json", figures(said["heldout"], on.yardstick, outside=said.get("outside")))

    comparison.run.stage("evaluate/teacher", inputs, make)


def _finals(comparison: Comparison, best: Mapping[str, Run], processes: int, deadline: float | None) -> None:
    runs = []
    for seed in comparison.recipe.seeds:
        for one in best.values():
            final = replace(one, seed=seed)
            if not is_done(comparison, final):
                runs.append(final)

    def note() -> None:
        if comparison.run.ranks.is_main_process:
            collect(comparison.recipe, comparison.run.path, _status(comparison, best))

    _train(comparison, runs, processes, deadline, search=False, note=note)


def _train(
    comparison: Comparison,
    runs: Sequence[Run],
    processes: int,
    deadline: float | None,
    *,
    search: bool,
    note: Callable[[], None],
) -> None:
    """Train the runs in packs: students of a pack see the same batches, so they have the same seed.

    note: called after every pack, to write down how far the comparison is.
    """
    recipe = comparison.recipe
    most = max(1, min(recipe.lockstep.students, math.ceil(len(runs) / processes)))
    by_seed = [[one for one in runs if one.seed == seed] for seed in dict.fromkeys(one.seed for one in runs)]
    packs = [
        Pack(recipe=recipe, runs=part, search=search, deadline=deadline)
        for same in by_seed
        for part in _evenly(same, most)
    ]
    description = "search" if search else "compare"
    if packs and (deadline is None or time.time() < deadline):
        console.print(f"{description}: {len(runs)} students in {len(packs)} packs")
    for pack, outcome in run_jobs(packs, train_pack, processes=processes, description=description):
        if outcome != DONE:
            console.print(f"[red]{', '.join(one.name for one in pack.runs)}: {outcome}[/red]")
            for one in pack.runs if not search else ():
                reason = outcome.removeprefix("failed: ")
                write_json(comparison.run.path / "train" / one.name / "failure.json", {"failure": reason})
        note()


def _evenly(runs: Sequence[Run], most: int) -> Iterator[tuple[Run, ...]]:
    """Parts of nearly equal size, `most` at most."""
    count = math.ceil(len(runs) / most)
    for number in range(count):
        yield tuple(runs[number * len(runs) // count : (number + 1) * len(runs) // count])


def _status(comparison: Comparison, best: Mapping[str, Run]) -> dict[str, str]:
    return {
        f"{method.label}-seed{seed}": _outcome(comparison, method.label, seed, best)
        for method in comparison.recipe.methods
        for seed in comparison.recipe.seeds
    }


def _outcome(comparison: Comparison, label: str, seed: int, best: Mapping[str, Run]) -> str:
    if label not in best:
        done = records(comparison, label)
        failures = [record["failure"] for record in done if record["failure"]]
        whole = len(failures) == len(done) > 0
        return f"failed: every try of its search failed: {failures[0]}" if whole else NOT_YET
    if is_done(comparison, replace(best[label], seed=seed)):
        return DONE
    failure = comparison.run.path / "train" / f"{label}-seed{seed}" / "failure.json"
    return f"failed: {read_json(failure)['failure']}" if failure.exists() else NOT_YET


def _check_search(recipe: ClassifierRecipe) -> None:
    """Raises UserError for a metric that is not measured, and for options whose values do not work."""
    search = recipe.search
    if search is None:
        return
    if metric(search) not in ON_VALIDATION:
        known = ", ".join(ON_VALIDATION)
        raise UserError(f"search.metric: {search.metric} is not among what is measured: {known}")
    labels = {method.label: method for method in recipe.methods}
    for label, options in search.options.items():
        if label not in labels:
            continue  # of a method that is left out today
        for name, values in options.items():
            for value in values:
                objectives.load(labels[label].name, **{**labels[label].options, name: value})


def _write_search(comparison: Comparison) -> None:
    """search.json: every try of every method, for reports."""
    rows = [
        {"method": method.label, **{name: value for name, value in record.items() if name != "key"}}
        for method in comparison.recipe.methods
        for record in records(comparison, method.label)
    ]
    write_json(comparison.run.path / "search.json", rows)
