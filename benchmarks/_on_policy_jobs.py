"""The runs of the on-policy experiment: which are left, in which order, what is kept of them."""

import json
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks._on_policy_experiments import Experiment
from grkd.files import read_json, write_json
from grkd.language.compare import perform
from grkd.language.search import Job
from grkd.recipe import LanguageRecipe, Method, Responses

# Methods that differ in who ranks alone take the learning rate of the one that a verifier ranks.
RATE_OF = dict.fromkeys(("grkd-teacher", "grkd-verifier-then-teacher", "grkd-votes"), "grkd-verifier")
REWARD_POINTS = 10
_WARM_STEPS = 20  # the first steps compile kernels and record the decode step


def work(job: Job) -> None:
    """Do a job, and note how long it took; where it fails, the traceback is printed in full."""
    begun = time.monotonic()
    try:
        perform(job)
    except BaseException:
        traceback.print_exc()
        raise
    write_json(_took(Path(job.recipe.output), job), time.monotonic() - begun)


def seconds_taken(folder: Path, job: Job) -> float | None:
    """How long a job took from end to end; None where it failed."""
    path = _took(folder, job)
    return float(read_json(path)) if path.exists() else None


def _took(folder: Path, job: Job) -> Path:
    return folder / "took" / f"{job.name}.json"


def rates(recipe: LanguageRecipe, method: Method) -> list[float]:
    """The learning rates that a method tries; none where it takes another method's, or the recipe names none."""
    assert recipe.search is not None
    return [] if method.label in RATE_OF else list(recipe.search.learning_rate)


def trial_jobs(recipe: LanguageRecipe, found: Mapping[str, Any], *, steps: int) -> list[Job]:
    """The trials that are not in `found`, all of `steps` optimiser steps."""
    recipe = replace(recipe, training=replace(recipe.training, steps=steps, minutes=None))
    jobs = [
        Job(recipe=recipe, method=method, seed=recipe.seeds[0], learning_rate=rate, trial=number)
        for method in recipe.methods
        for number, rate in enumerate(rates(recipe, method))
    ]
    return [job for job in jobs if job.name not in found]


def planned(recipe: LanguageRecipe, trials: Mapping[str, Any]) -> dict[str, float]:
    """label -> the learning rate of its final runs, for the methods whose trials are over.

    Where the recipe has no rates to try: training.learning_rate for all.
    """
    assert recipe.search is not None
    if not recipe.search.learning_rate:
        return dict.fromkeys((method.label for method in recipe.methods), recipe.training.learning_rate)
    result = {}
    for method in recipe.methods:
        searched = next(one for one in recipe.methods if one.label == RATE_OF.get(method.label, method.label))
        if (rate := best_rate(_ended(recipe, trials, searched))) is not None:
            result[method.label] = rate
    return result


def best_rate(trials: Sequence[Mapping[str, Any]]) -> float | None:
    """The learning rate with the best value, the lowest of several; None if no trial has one."""
    known = [(trial["value"], -trial["learning_rate"]) for trial in trials if trial["value"] is not None]
    return -max(known)[1] if known else None


def final_jobs(
    recipe: LanguageRecipe,
    plan: Mapping[str, float],
    found: Mapping[str, Any],
    *,
    budget: float,
    experiment: Experiment,
) -> list[Job]:
    """The final runs of planned methods that are not in `found`, each of `budget` seconds of training."""
    timed = replace(recipe.training, steps=None, minutes=budget / 60)
    by_steps = replace(recipe.training, steps=experiment.long_steps, minutes=None)
    return [
        Job(
            recipe=replace(
                recipe,
                training=by_steps if _is_long(method) else timed,
                responses=_responses(recipe, method, experiment),
            ),
            method=method,
            seed=seed,
            learning_rate=plan[method.label],
        )
        for seed in recipe.seeds
        for method in recipe.methods
        if method.label in plan
        and f"{method.label}-seed{seed}" not in found
        and not (_is_long(method) and seed != recipe.seeds[0])
    ]


def _responses(recipe: LanguageRecipe, method: Method, experiment: Experiment) -> Responses:
    """The recipe's responses as a method of this experiment takes them: stored ones, new ones, or both."""
    if method.label in experiment.stored:
        return replace(recipe.responses, when="before")
    share = 0.0 if method.label in experiment.own else recipe.responses.stored_share
    return replace(recipe.responses, stored_share=share)


def needed(recipe: LanguageRecipe, found: Mapping[str, Any], without: frozenset[str] = frozenset()) -> list[str]:
    """Final runs of equal time that are not in `found`, by name; some methods left out."""
    methods = [method for method in recipe.methods if not _is_long(method) and method.label not in without]
    names = [f"{method.label}-seed{seed}" for seed in recipe.seeds for method in methods]
    return [name for name in names if name not in found]


def _is_long(method: Method) -> bool:
    return method.label.endswith("-long")


def whole_seeds(jobs: Sequence[Job], *, seconds: float, time_left: float) -> list[Job]:
    """The runs of the first seed that has any left; none if they would end too late, each taking `seconds`."""
    if not jobs or seconds > time_left:
        return []
    first = min(job.seed for job in jobs)
    return [job for job in jobs if job.seed == first]


def in_turn(recipe: LanguageRecipe, job: Job, experiment: Experiment) -> tuple[bool, bool, bool, int, int]:
    """Sorts jobs: trials first, then final runs seed by seed, so that what is cut off leaves whole seeds."""
    label = job.method.label
    place = [method.label for method in recipe.methods].index(label)
    return job.trial is None, _is_long(job.method), label in experiment.last, job.seed, place


def trial_kept(folder: Path, job: Job, outcome: str) -> dict[str, Any]:
    """What is kept of a trial: its value on the validation questions, and its pace."""
    kept: dict[str, Any] = {"method": job.method.label, "learning_rate": job.learning_rate, "value": None}
    if outcome != "done":
        return {**kept, "outcome": outcome}
    own = folder / "search" / job.name
    value = read_json(own / "metrics.json")["exact_match"]["value"]
    return {**kept, "outcome": outcome, "value": value, **pace_of(own)}


def final_kept(folder: Path, job: Job) -> dict[str, Any]:
    """What is kept of a final run: figures, answers, curve, time."""
    train, evaluated = folder / "train" / job.name, folder / "evaluate" / job.name
    spent, answers = read_json(train / "training.json"), read_json(evaluated / "exact_match.json")
    return {
        "method": job.method.label,
        "seed": job.seed,
        "learning_rate": job.learning_rate,
        "steps": spent["steps"],
        "seconds": spent["seconds"],
        "tokens": spent["rows_seen"],
        "took": seconds_taken(folder, job),
        "rewards": _rewards(train / "groups"),
        **pace_of(train),
        "metrics": read_json(evaluated / "metrics.json"),
        "correct": correct(answers),
        "curve": [
            {"step": line["step"], "seconds": round(line["seconds"], 2), "exact_match": line["exact_match"]["value"]}
            for line in _lines(train / "curve.jsonl")
        ],
    }


def _rewards(folder: Path) -> list[dict[str, float]]:
    """Each ranker's mean score of the groups of a training, in tenths of its steps; empty where nothing is ranked."""
    groups = [
        dict(line["by_ranker"])
        for path in sorted(folder.glob("*.parquet"))
        for line in pq.read_table(path, columns=["by_ranker"]).to_pylist()
    ]
    found: list[dict[str, float]] = []
    points = min(REWARD_POINTS, len(groups))
    for part in range(points):
        low, high = (round(at * len(groups) / points) for at in (part, part + 1))
        scores: dict[str, list[float]] = {}
        for group in groups[low:high]:
            for label, values in group.items():
                scores.setdefault(label, []).extend(value for value in values if value is not None)
        found.append({label: round(sum(each) / len(each), 4) for label, each in scores.items() if each})
    return found


def correct(answers: Sequence[Mapping[str, Any]]) -> str:
    """One digit per question: 1 right, 0 wrong."""
    return "".join(str(int(each["correct"])) for each in answers)


def _ended(recipe: LanguageRecipe, trials: Mapping[str, Any], method: Method) -> list[Mapping[str, Any]]:
    """All trials of a method, or none as long as one is missing."""
    names = [f"{method.label}-trial{number}" for number in range(len(rates(recipe, method)))]
    return [trials[name] for name in names] if all(name in trials for name in names) else []


def pace_of(folder: Path) -> dict[str, Any]:
    """The pace of a training by its log; see `_pace`."""
    return _pace(_lines(folder / "metrics.jsonl"))


def _pace(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """seconds_per_step after the first steps, and milliseconds of its parts: sample, rank, and the rest, train."""
    warm = [line for line in lines if line["step"] >= _WARM_STEPS] or list(lines[:1])
    first, rest = warm[0], warm[1:]
    if not rest:
        return {"seconds_per_step": lines[-1]["seconds"] / lines[-1]["step"], "ms": {}}
    steps = rest[-1]["step"] - first["step"]
    seconds = (rest[-1]["seconds"] - first["seconds"]) / steps
    lengths = [line["step"] - before["step"] for before, line in zip(warm, rest, strict=False)]
    ms = {}
    for name in ("sample", "rank"):
        parts = [line.get("seconds_per_step", {}).get(name, 0.0) for line in rest]
        ms[name] = 1000 * sum(part * length for part, length in zip(parts, lengths, strict=True)) / steps
    return {"seconds_per_step": seconds, "ms": {**ms, "train": 1000 * seconds - sum(ms.values())}}


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
