"""Teachers of every kind: which weights are at hand, and what each kind cannot do."""

from collections.abc import Iterator, Sequence
from typing import Any

from grkd import objectives
from grkd.endpoint.client import base_url
from grkd.errors import UserError
from grkd.recipe._language import CachedTeacher, LanguageRecipe, Model, SelfTeacher, ServedModel, Teacher
from grkd.recipe._words import KeyPath, Problem

_NEED_LOG_PROBS = ("log_prob", "choice", "calibrated")  # rankers
_NAMES: dict[type, str] = {SelfTeacher: "a self-teacher", CachedTeacher: "a cache of ranks"}


def weights_of(recipe: LanguageRecipe) -> Model | None:
    """The teacher's weights on this machine, as a model; None for a cache, and a served one that is nowhere else.

    Of a self-teacher: the student's. Of a served teacher: the copy that it is compared with.
    """
    teacher, student = recipe.teacher, recipe.student
    if isinstance(teacher, CachedTeacher):
        return None
    if isinstance(teacher, ServedModel):
        return None if teacher.model is None else Model(model=teacher.model)
    if isinstance(teacher, SelfTeacher):
        assert student.model is not None
        return Model(
            model=student.model,
            gguf_file=student.gguf_file,
            revision=student.revision,
            dtype=student.dtype,
            trust_remote_code=student.trust_remote_code,
        )
    return teacher


def shows_tokens(recipe: LanguageRecipe) -> bool:
    """Whether the teacher gives log-probabilities; else it writes text and orders responses, and nothing more."""
    return not isinstance(recipe.teacher, ServedModel) or recipe.teacher.log_probs


def teacher_mistakes(recipe: LanguageRecipe) -> Iterator[Problem]:
    """Keys of the teacher that other keys exclude or need."""
    teacher, student, path = recipe.teacher, recipe.student, ("teacher",)
    if isinstance(teacher, Model):
        return
    if recipe.score.signal == "live":
        yield Problem(("score", "signal"), "live belongs to a teacher that answers plain prompts in this process")
    if isinstance(teacher, SelfTeacher):
        if student.model is None:
            yield Problem(path, "a self-teacher is the student before training; give student.model")
        return
    if isinstance(teacher, CachedTeacher):
        if student.model is None:
            yield Problem(("student",), "a cache of ranks has no layers to keep; give student.model")
        if recipe.responses.when == "in_training":
            yield Problem(("responses", "when"), "a cache of ranks knows stored responses alone; take it out")
        return
    try:
        base_url(teacher.url, "teacher.url")
    except UserError as error:
        yield Problem((*path, "url"), str(error).removeprefix("teacher.url: "))
    if student.model is None and teacher.model is None:
        yield Problem(("student",), "a served teacher has no layers to keep; give student.model, or teacher.model too")
    if recipe.evaluation.top_k > teacher.top_k and teacher.log_probs:
        text = f"is above teacher.top_k ({teacher.top_k}), the tokens that the server is asked for; lower one"
        yield Problem(("evaluation", "top_k"), text)


def asked_of_teacher(recipe: LanguageRecipe) -> Iterator[Problem]:
    """Methods and rankers that the teacher cannot serve."""
    teacher = recipe.teacher
    if isinstance(teacher, Model):
        return
    for index, method in enumerate(recipe.methods):
        objective = objectives.load(method.name, **method.options)
        if words := _cannot(recipe, objective):
            yield Problem(("methods", index), f"{method.label} {words}")
        yield from _rankers(recipe, ("methods", index, "rankers"), method.rankers)
    yield from _rankers(recipe, ("score", "rankers"), recipe.score.rankers)
    if isinstance(teacher, SelfTeacher | CachedTeacher) and recipe.score.reward in ("choice", "calibrated"):
        text = f"{_NAMES[type(teacher)]} is not asked for choices; use log_prob, or name rankers"
        yield Problem(("score", "reward"), text)
    if not shows_tokens(recipe) and recipe.score.rankers is None and recipe.score.reward in _NEED_LOG_PROBS:
        text = "the teacher gives no log-probabilities (teacher.log_probs); name the ranker judge, or data"
        yield Problem(("score", "reward"), text)


def _cannot(recipe: LanguageRecipe, objective: Any) -> str:
    """Why a method does not work with this teacher, as the end of a sentence; empty if it does."""
    by_token = objective.needs_teacher and "row" in objective.levels
    if isinstance(recipe.teacher, CachedTeacher) and (objective.on_policy > 0 or objective.teacher_mixed_in > 0):
        return "learns from responses sampled in training, and a cache of ranks knows stored ones alone"
    if isinstance(recipe.teacher, SelfTeacher) and (objective.on_policy > 0 or recipe.responses.when == "in_training"):
        return "learns from responses sampled in training; a self-teacher scores stored ones: responses.when: before"
    new_responses = objective.on_policy > 0 or recipe.responses.when == "in_training"
    if objective.teacher_mixed_in > 0 or (by_token and new_responses):
        return "has the teacher score tokens in every step, so it must be in this process: teacher: {model: ...}"
    if by_token and not shows_tokens(recipe):
        return (
            "compares tokens, and the teacher gives no log-probabilities; choose seqkd, or one that compares responses"
        )
    return ""


def rankers_of(entries: Sequence[Any], teacher: Teacher) -> list[Any]:
    """The rankers, in which a judge without url and model is the served teacher."""
    if not isinstance(teacher, ServedModel):
        return list(entries)
    names = ("url", "key_env", "concurrency", "timeout_seconds", "max_requests")
    asked = {"model": teacher.served_model, **{name: getattr(teacher, name) for name in names}}
    found = []
    for entry in entries:
        plain = {"name": entry} if isinstance(entry, str) else entry
        is_teacher = isinstance(plain, dict) and plain.get("name") == "judge" and not {"url", "model"} & plain.keys()
        found.append({**asked, **plain} if is_teacher else entry)
    return found


def _rankers(recipe: LanguageRecipe, path: KeyPath, entries: Sequence[Any] | None) -> Iterator[Problem]:
    for index, entry in enumerate(entries or []):
        name = entry if isinstance(entry, str) else entry.get("name")
        if isinstance(recipe.teacher, SelfTeacher | CachedTeacher) and name in ("choice", "calibrated"):
            text = f"{_NAMES[type(recipe.teacher)]} is not asked for choices; use log_prob in place of {name}"
            yield Problem((*path, index), text)
        if not shows_tokens(recipe) and name in _NEED_LOG_PROBS:
            text = f"{name} needs log-probabilities, and the teacher gives none (teacher.log_probs); use judge"
            yield Problem((*path, index), text)
