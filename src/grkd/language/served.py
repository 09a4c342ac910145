"""The recipe's served teacher, opened: its client, tokenizer, journal, and the copy that it is compared with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from grkd.data.language import Item
from grkd.endpoint.launch import concurrency_of
from grkd.files import digest
from grkd.language.context import LanguageContext
from grkd.language.endpoint import endpoint_of
from grkd.models.generate import free_memory
from grkd.models.load import vocabulary_size
from grkd.recipe import CachedTeacher, LanguageRecipe, ServedModel, Teacher, label_of
from grkd.run.folder import identity
from grkd.served import ServedTeacher
from grkd.served.server import Server
from grkd.served.teacher import FIRST
from grkd.teacher.local import LocalTeacher
from grkd.teacher.rank_cache import RankCache

_END = 64  # tokens at the end of a prompt that are compared
# Keys that say how the teacher is asked, not what it answers.
_OPERATIONAL = ("url", "tolerance_nats", "key_env", "concurrency", "timeout_seconds", "max_requests", "top_k")


def served_teacher(context: LanguageContext, name: str) -> ServedTeacher:
    """The teacher, opened. Its answers lie in the run's folder teacher/<name>, outside the stages: a stage that
    is rebuilt asks nothing twice. Raises UserError for a server that cannot be used."""
    spec = context.models.served
    assert spec is not None
    teacher = ServedTeacher(
        context.models.endpoint,
        context.models.tokenizer_of_teacher,
        folder=context.run.path / "teacher" / f"{name}-{context.run.ranks.process_index}",
        concurrency=concurrency_of(spec.concurrency),
        top_k=spec.top_k,
        local=None if spec.model is None else lambda items: _local_means(context, items),
        tolerance_nats=spec.tolerance_nats,
    )
    teacher.open()
    return teacher


def compare_first(context: LanguageContext, name: str, prompts: Mapping[str, Sequence[int]]) -> None:
    """Hold the server to its tokenizer, and to the model here, by the ends of prompts: before it writes for money.

    name: of the folder for its answers. prompts: by id, in the teacher's tokens; one is asked about if the model is not
    at hand.
    """
    spec = context.models.served
    assert spec is not None
    parts = {name: max(1, len(ids) - _END) for name, ids in prompts.items() if len(ids) > 1}
    items = [
        Item(id=name, prompt_ids=list(prompts[name][:cut]), response_ids=list(prompts[name][cut:]))
        for name, cut in parts.items()
    ]
    served_teacher(context, name).scored(items[: FIRST if spec.model is not None else 1])


def check_servers(recipe: LanguageRecipe) -> None:
    """Ask every server of the recipe's teachers what it serves. Raises UserError for a wrong URL, name or key."""
    for each in recipe.teacher if isinstance(recipe.teacher, list) else [recipe.teacher]:
        if isinstance(each, ServedModel):
            Server(endpoint_of(each)).open()


def teacher_identity(teacher: Teacher) -> Any:
    """What the teacher's answers depend on: a served model may move to another URL, votes may be weighed anew."""
    if isinstance(teacher, list):
        return [{"label": label_of(each), **teacher_identity(each)} for each in teacher]
    if isinstance(teacher, CachedTeacher):
        return {"ranks": digest(RankCache(Path(teacher.cache)).header)}
    plain = identity(teacher)
    if isinstance(teacher, ServedModel):
        plain = {key: value for key, value in plain.items() if key not in _OPERATIONAL}
    for name in ("label", "weight", "only"):
        plain.pop(name, None)
    return plain


def named(teacher: Teacher) -> str:
    """The teacher's name in tables and model cards."""
    if isinstance(teacher, list):
        return ", ".join(named(each) for each in teacher)
    if isinstance(teacher, ServedModel):
        return f"{teacher.served_model} (served)"
    if isinstance(teacher, CachedTeacher):
        return f"{RankCache(Path(teacher.cache)).origin.teacher} (cache of ranks)"
    return getattr(teacher, "model", None) or "the student before training"


def _local_means(context: LanguageContext, items: Sequence[Item]) -> list[float]:
    """Mean log-probabilities under the copy on this machine, which is loaded for it alone."""
    tokenizer, model = context.models.tokenizer_of_teacher, context.models.teacher()
    try:
        local = LocalTeacher(model, tokenizer, vocabulary=vocabulary_size(tokenizer), batch_size=len(items))
        with torch.no_grad():
            return local.scored(items)[0]
    finally:
        del model
        free_memory()
