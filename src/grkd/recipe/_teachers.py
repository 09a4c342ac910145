"""Teachers of every kind: which weights are at hand, and what each kind cannot do."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from grkd import objectives
from grkd.endpoint.client import base_url
from grkd.errors import UserError
from grkd.recipe._language import (
    CachedTeacher,
    LanguageRecipe,
    Model,
    ModelOfSeveral,
    SelfTeacher,
    ServedModel,
    ServedOfSeveral,
    Teacher,
)
from grkd.recipe._methods import FOLDER_NAME
from grkd.recipe._sections import Method
from grkd.recipe._words import KeyPath, Problem

_NEED_LOG_PROBS = ("log_prob", "choice", "calibrated")  # rankers
_NAMES: dict[type, str] = {SelfTeacher: "a self-teacher", CachedTeacher: "a cache of ranks"}


def label_of(teacher: Teacher) -> str:
    """The label of one of several teachers."""
    assert isinstance(teacher, ModelOfSeveral | ServedOfSeveral)
    if teacher.label is not None:
        return teacher.label
    name = teacher.served_model if isinstance(teacher, ServedOfSeveral) else teacher.model
    return name.rstrip("/").rpartition("/")[2]


def teachers_of(recipe: LanguageRecipe) -> dict[str, LanguageRecipe]:
    """Of a list of teachers: by label, the recipe with each alone. Empty for a recipe with one teacher."""
    if not isinstance(recipe.teacher, list):
        return {}
    return {label_of(each): replace(recipe, teacher=each) for each in recipe.teacher}


def lead(recipe: LanguageRecipe) -> LanguageRecipe:
    """The recipe with one teacher: of a list the first, which writes responses and whose layers a student may keep."""
    return replace(recipe, teacher=recipe.teacher[0]) if isinstance(recipe.teacher, list) else recipe


def weights_of(recipe: LanguageRecipe) -> Model | None:
    """The teacher's weights on this machine, as a model; None for a cache, and a served one that is nowhere else.

    Of a self-teacher: the student's. Of a served teacher: the copy that it is compared with.
    """
    if isinstance(recipe.teacher, list):
        return weights_of(lead(recipe))
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


def url_mistakes(path: KeyPath, url: str) -> Iterator[Problem]:
    """What is wrong with a server's URL."""
    try:
        base_url(url, "url")
    except UserError as error:
        yield Problem(path, str(error).removeprefix("url: "))


def teacher_mistakes(recipe: LanguageRecipe) -> Iterator[Problem]:
    """Keys of the teacher that other keys exclude or need."""
    teacher, student, path = recipe.teacher, recipe.student, ("teacher",)
    if isinstance(teacher, list):
        yield from _several(recipe, teacher)
        return
    if isinstance(teacher, Model):
        if teacher.dtype == "float8" and teacher.placement != "whole":
            yield Problem((*path, "placement"), "weights in float8 are not sharded; use dtype: bfloat16, or whole")
        return
    if recipe.score.signal == "live":
        yield Problem(("score", "signal"), "live belongs to a teacher that answers plain prompts in this process")
    if isinstance(teacher, SelfTeacher):
        if student.model is None:
            yield Problem(path, "a self-teacher is the student before training; give student.model")
        if teacher.context is None and teacher.system is None:
            yield Problem(path, "a self-teacher is shown what the student is not; give context (a column) or system")
        return
    if isinstance(teacher, CachedTeacher):
        if student.model is None:
            yield Problem(("student",), "a cache of ranks has no layers to keep; give student.model")
        if recipe.responses.when == "in_training":
            yield Problem(("responses", "when"), "a cache of ranks knows stored responses alone; remove it")
        return
    yield from url_mistakes((*path, "url"), teacher.url)
    if student.model is None and teacher.model is None:
        yield Problem(("student",), "a served teacher has no layers to keep; give student.model, or teacher.model too")
    if recipe.evaluation.top_k > teacher.top_k and teacher.log_probs:
        text = f"is above teacher.top_k ({teacher.top_k}), the tokens that the server is asked for; lower one"
        yield Problem(("evaluation", "top_k"), text)


def _several(recipe: LanguageRecipe, teachers: Sequence[Teacher]) -> Iterator[Problem]:
    """What is wrong with a list of teachers, and with each of them."""
    if not teachers:
        yield Problem(("teacher",), "expected at least one teacher, got an empty list")
    labels = [label_of(each) for each in teachers]
    for index, one in enumerate(teachers):
        path = ("teacher", index)
        if labels.index(labels[index]) < index:
            yield Problem((*path, "label"), f"{labels[index]!r} is that of another teacher; give each its own label")
        if not FOLDER_NAME.fullmatch(labels[index]):
            yield Problem((*path, "label"), "expected letters, digits and any of . _ + - (it names a folder); give one")
        assert isinstance(one, ModelOfSeveral | ServedOfSeveral)
        if len(one.only) > 1:
            yield Problem((*path, "only"), "is one column and its value, such as {subject: maths}")
        if isinstance(one, ServedModel) and not one.log_probs:
            yield Problem(
                (*path, "log_probs"), "one of several teachers gives them; name the ranker judge with its url"
            )
        for problem in teacher_mistakes(replace(recipe, teacher=one)):
            if problem.path[0] == "teacher":
                yield replace(problem, path=(*path, *problem.path[1:]))
            elif index == 0 or problem.path[0] != "student":  # the student's layers are the first one's
                yield problem
    if recipe.score.signal == "live":
        yield Problem(("score", "signal"), "live belongs to one teacher; several score stored responses")


def asked_of_teacher(recipe: LanguageRecipe) -> Iterator[Problem]:
    """Methods and rankers that the teacher cannot serve."""
    teacher = recipe.teacher
    yield from _token_order(recipe)
    if isinstance(teacher, Model):
        return
    for index, method in enumerate(recipe.methods):
        objective = objectives.load(method.name, **method.options)
        if words := _cannot(recipe, objective) or _asks_itself(recipe, method, objective):
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
    if isinstance(recipe.teacher, list):
        return _cannot_of_several(recipe, recipe.teacher, objective)
    if isinstance(recipe.teacher, CachedTeacher) and (objective.on_policy > 0 or objective.teacher_mixed_in > 0):
        return "learns from responses sampled in training, and a cache of ranks knows stored ones alone"
    if isinstance(recipe.teacher, SelfTeacher):
        mixed = "samples from a mixture with the teacher, and a self-teacher reads other prompts; choose opd or gkd"
        return mixed if objective.teacher_mixed_in > 0 else ""
    new_responses = objective.on_policy > 0 or recipe.responses.when == "in_training"
    if objective.teacher_mixed_in > 0 or (by_token and new_responses):
        return "has the teacher score tokens in every step, so it must be in this process: teacher: {model: ...}"
    if by_token and not shows_tokens(recipe):
        return (
            "compares tokens, and the teacher gives no log-probabilities; choose seqkd, or one that compares responses"
        )
    return ""


def _asks_itself(recipe: LanguageRecipe, method: Method, objective: Any) -> str:
    """Why a method cannot have a self-teacher order new responses, as the end of a sentence; empty if it need not."""
    new = recipe.responses.when == "in_training" and "response" in objective.levels
    if not isinstance(recipe.teacher, SelfTeacher) or not new:
        return ""
    entries = method.rankers or recipe.score.rankers or [recipe.score.reward or "log_prob"]
    names = [entry if isinstance(entry, str) else entry.get("name") for entry in entries]
    if "log_prob" not in names:
        return ""
    return (
        "has the ranker log_prob order new responses, and a self-teacher orders stored ones; name another ranker in "
        "score.rankers, or set responses.when: before"
    )


def _cannot_of_several(recipe: LanguageRecipe, teachers: Sequence[Teacher], objective: Any) -> str:
    by_token = objective.needs_teacher and "row" in objective.levels
    if objective.teacher_mixed_in > 0:
        return "samples from a mixture with the teacher, which is one; give one teacher"
    if not (by_token and (objective.on_policy > 0 or recipe.responses.when == "in_training")):
        return ""
    if any(isinstance(each, ServedModel) for each in teachers):
        return "has the teachers score tokens in every step, so they must be in this process: {model: ...}"
    if any(isinstance(each, Model) and each.placement != "whole" for each in teachers):
        return "has several teachers score tokens in every step, and none may be sharded; remove placement"
    if recipe.training.tokens_per_batch is not None:
        return "has several teachers score tokens in every step, in padded batches; remove training.tokens_per_batch"
    return ""


def _token_order(recipe: LanguageRecipe) -> Iterator[Problem]:
    """Votes on tokens that nobody casts, or that no method counts."""
    order, path = recipe.score.token_order, ("score", "token_order")
    if order == "log_probs":
        return
    if not isinstance(recipe.teacher, list) or len(recipe.teacher) < 2:
        yield Problem(path, f"{order} is of several teachers; give a list as teacher, or remove it")
    elif not any(objectives.load(each.name, **each.options).takes_votes_on_rows for each in recipe.methods):
        yield Problem(path, f"{order} is read by grkd's pairs of tokens, and no method has them; remove it")


def rankers_of(entries: Sequence[Any], teacher: Teacher) -> list[Any]:
    """The rankers: a judge without url and model is the served teacher, and each of several teachers is asked."""
    if isinstance(teacher, list):
        from grkd.rankers.several import OneOfSeveral, for_each_teacher  # torch, which a mere reader need not load

        ones = [OneOfSeveral(label=label_of(each), weight=each.weight, only=each.only) for each in teacher]
        return for_each_teacher(entries, ones)
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
        asked = None if isinstance(entry, str) else entry.get("teacher")
        labels = [label_of(each) for each in recipe.teacher] if isinstance(recipe.teacher, list) else []
        if asked is not None and asked not in labels:
            known = ", ".join(labels) or "none, there is one teacher"
            yield Problem((*path, index), f"no teacher is labelled {asked!r}; labels: {known}")
        if isinstance(recipe.teacher, SelfTeacher | CachedTeacher) and name in ("choice", "calibrated"):
            text = f"{_NAMES[type(recipe.teacher)]} is not asked for choices; use log_prob in place of {name}"
            yield Problem((*path, index), text)
        if not shows_tokens(recipe) and name in _NEED_LOG_PROBS:
            text = f"{name} needs log-probabilities, and the teacher gives none (teacher.log_probs); use judge"
            yield Problem((*path, index), text)
