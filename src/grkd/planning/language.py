"""The plan of a language run: counts from the data, times and memory from a miniature, scaled to the whole."""

import math
from dataclasses import fields
from pathlib import Path

from grkd import objectives
from grkd.language.examples import from_data
from grkd.language.score import cached_splits
from grkd.metrics.exact_match import read_questions
from grkd.planning.batches import expected_batches, scored_sizes
from grkd.planning.counts import Counts, count
from grkd.planning.earlier import power_of
from grkd.planning.measure import Measured, measure
from grkd.planning.memory import free_memory, memory_of, sizes_of
from grkd.planning.money import usage
from grkd.planning.plan import Plan, Stage
from grkd.recipe import LanguageRecipe
from grkd.run.device import device

_DISK_BYTES_PER_SECOND = 1e9  # at which checkpoints are assumed to be written


def plan_language(
    recipe: LanguageRecipe,
    *,
    measured: bool,
    prices: tuple[float, float] | None = None,
    earlier: Path | None = None,
) -> Plan:
    """measured: run a miniature for times and the GPU's peak; else memory, steps, disk and money alone.

    prices: USD per million tokens that an endpoint reads and writes. earlier: a run to take the power's figures from.
    """
    counts = count(recipe)
    found = measure(recipe) if measured else None
    responses = _response_tokens(recipe, counts, found)
    prompts = counts.train + counts.heldout
    memory, peak = planned_memory(recipe, counts, found)
    steps = recipe.training.steps_for(counts.train)
    asked = usage(recipe, prompts=prompts, prompt_tokens=counts.prompt_tokens, response_tokens=responses, steps=steps)
    questions = len(read_questions(Path(recipe.evaluation.questions))) if recipe.evaluation.questions else 0
    unit, number = ("questions", questions) if questions else ("held-out prompts", counts.heldout)
    tokens = prompts * recipe.responses.n * responses
    return Plan(
        stages=() if found is None else stages(recipe, counts, found, questions),
        trials=() if found is None or recipe.search is None else [_trials(recipe, found, steps)],
        memory=memory,
        peak=peak,
        free=free_memory(device(recipe.device)),
        disk=_disk(recipe, counts, responses),
        counts={
            "prompts": prompts,
            "prompt tokens": prompts * counts.prompt_tokens,
            "response tokens": tokens,
            "steps per student": steps,
            "students": len(recipe.methods) * len(recipe.seeds),
            **{f"requests ({name})": one.requests for name, one in asked.items()},
        },
        money={} if prices is None else {name: one.cost(*prices) for name, one in asked.items()},
        power=power_of(earlier, seeds=len(recipe.seeds), questions=number, unit=unit),
        notes=_notes(recipe, found),
    )


def stages(recipe: LanguageRecipe, counts: Counts, found: Measured, questions: int) -> list[Stage]:
    """Times of the run's stages."""
    held, students = counts.heldout / max(1, found.prompts["heldout"]), len(recipe.methods) * len(recipe.seeds)
    new = max(0, counts.train + counts.heldout - sum(found.prompts.values()))
    prepared = found.checks + found.work["prepare"] + found.loading["prepare"] + new * counts.seconds
    made = [Stage(name="prepare", seconds=prepared)]
    for name in ("respond", "score", "reference"):
        if name in found.work:
            seconds = found.loading[name] + found.work[name] + new * found.each[name]
            seconds += _new_sizes(recipe, counts, found) if name == "score" else 0.0
            made.append(Stage(name=name, seconds=seconds))
    asked, sampled = _answering(recipe, found, questions), min(found.sampling, found.work["evaluate"])
    each = held * (found.work["evaluate"] - sampled) + sampled + asked
    first = max(0.0, found.work["evaluate before"] - found.work["evaluate"])
    made.append(Stage(name="evaluate before", seconds=found.loading["evaluate before"] + first + each))
    teacher = found.loading["evaluate teacher"] + found.work["evaluate teacher"] + asked
    made.append(Stage(name="evaluate teacher", seconds=teacher))
    steps = recipe.training.steps_for(counts.train)
    for label, step in found.step.items():
        if recipe.training.minutes is not None:
            seconds = 60 * recipe.training.minutes
        else:
            seconds = step * steps * _longer(recipe, counts, found)
        kept = steps // recipe.training.save_every * _checkpoint(recipe) / _DISK_BYTES_PER_SECOND
        whole = found.saving[label] + seconds + kept
        made.append(Stage(name=f"train {label}", seconds=whole, times=len(recipe.seeds)))
    if recipe.training.minutes is None:
        made.append(Stage(name="first steps of each method", seconds=sum(found.first.values())))
    made.append(Stage(name="evaluate", seconds=found.loading["evaluate"] + each, times=students))
    return [*made, Stage(name="report", seconds=found.report)]


def _new_sizes(recipe: LanguageRecipe, counts: Counts, found: Measured) -> float:
    """Seconds that a GPU takes for sizes of batches in the score stage that the miniature's first pass did not have."""
    if device(recipe.device).type != "cuda" or not found.quarter.get("score"):
        return 0.0
    groups = counts.items if _known_lengths(recipe) else found.groups
    few = sum(found.prompts.values())
    quarter, mini, whole = (
        scored_sizes(recipe, groups, prompts=number) for number in (few // 4, few, counts.train + counts.heldout)
    )
    return found.quarter["score"] / max(1, quarter) * max(0, whole - mini)


def _longer(recipe: LanguageRecipe, counts: Counts, found: Measured) -> float:
    """How many more tokens a step of the whole data has than one of the miniature, which has the first records."""
    if not _known_lengths(recipe) or not counts.items:
        return 1.0
    whole, few = (expected_batches(recipe, each) for each in (counts.items, found.groups))
    return whole.mean_tokens / few.mean_tokens if few.mean_tokens else 1.0


def _known_lengths(recipe: LanguageRecipe) -> bool:
    """Whether the data say how long the sequences are: one response per prompt, from the data."""
    return from_data(recipe.responses) and recipe.responses.n == 1


def _answering(recipe: LanguageRecipe, found: Measured, questions: int) -> float:
    """Seconds of the answers to questions, each batch as long as the longest answer that is allowed."""
    spec = recipe.evaluation
    if not questions or not spec.samples:
        return 0.0
    batches = math.ceil(questions / spec.answer_batch_size)
    return batches * spec.answer_tokens * found.sampling / max(1, spec.sample_tokens)


def _trials(recipe: LanguageRecipe, found: Measured, steps: int) -> Stage:
    assert recipe.search is not None
    number = recipe.search.trials * len(recipe.methods)
    step = sum(found.step.values()) / len(found.step)
    each = step * steps * recipe.search.steps_share + found.work["evaluate"] + found.loading["evaluate"]
    return Stage(name="trials of grkd compare", seconds=each, times=number)


def _response_tokens(recipe: LanguageRecipe, counts: Counts, found: Measured | None) -> float:
    """Mean tokens of a response: the data's, those of the miniature, else the limit."""
    if found is not None and found.groups:
        lengths = [len(item.response_ids) for group in found.groups for item in group.items]
        return sum(lengths) / len(lengths)
    return counts.answer_tokens if from_data(recipe.responses) else float(recipe.responses.max_new_tokens)


def planned_memory(
    recipe: LanguageRecipe, counts: Counts, found: Measured | None
) -> tuple[dict[str, float], float | None]:
    """Bytes by part for the largest batch of a training; and the miniature's peak, had it had that batch.

    The second is None if nothing was measured.
    """
    groups = counts.items if found is None or _known_lengths(recipe) else found.groups
    whole = expected_batches(recipe, groups, steps=recipe.training.steps_for(counts.train))
    memory = memory_of(recipe, tokens=whole.most_tokens, response_tokens=whole.most_response_tokens)
    if memory is None:  # no sizes are known, as of a GGUF file: the miniature's peak as it was
        return {}, (None if found is None else float(max(found.peak.values(), default=0)) or None)
    parts = {each.name: float(getattr(memory, each.name)) for each in fields(memory)}
    if found is None or not any(found.peak.values()):
        return parts, None
    few = expected_batches(recipe, found.groups, steps=found.steps)
    modelled = memory_of(recipe, tokens=few.most_tokens, response_tokens=few.most_response_tokens)
    assert modelled is not None
    return parts, max(found.peak.values()) + memory.peak - modelled.peak


def _checkpoint(recipe: LanguageRecipe) -> float:
    """Bytes of a checkpoint: weights, and two moments of each in float32."""
    _, student = sizes_of(recipe)
    return 0.0 if student is None else 12.0 * student.parameters


def _disk(recipe: LanguageRecipe, counts: Counts, responses: float) -> dict[str, float]:
    teacher, student = sizes_of(recipe)
    found: dict[str, float] = {}
    if student is not None:
        found["students"] = 4.0 * student.parameters * len(recipe.methods) * len(recipe.seeds)
        found["checkpoints, while a student is trained"] = 2 * _checkpoint(recipe)
    cached = cached_splits(recipe, shared=True)
    if teacher is not None and cached:
        width = 2 if device(recipe.device).type == "cuda" else 4
        prompts = sum(getattr(counts, split) for split in cached)
        found["teacher's hidden states"] = width * teacher.hidden * prompts * recipe.responses.n * responses
        found["teacher's head"] = 4.0 * teacher.vocabulary * teacher.hidden
    return found


def _notes(recipe: LanguageRecipe, found: Measured | None) -> list[str]:
    notes = []
    if found is None:
        notes.append("times were not measured (--quick)")
    elif device(recipe.device).type == "cuda" and recipe.training.compile is not False:
        notes.append("times are without compiled layers; a long training compiles them and takes less time")
    methods = [objectives.load(one.name, **one.options) for one in recipe.methods]
    if any(one.on_policy for one in methods):
        notes.append("on-policy methods take longer as their responses get longer")
    if recipe.training.minutes is not None and recipe.responses.when == "in_training":
        notes.append("requests of rankers in training are counted for the steps of training.epochs")
    if recipe.student.lora is not None:
        notes.append("memory of adapters is estimated with all linear layers")
    return notes
