"""The checks of a ranker's recipe: overlap, orders that say nothing, lengths, and the teachers on 32 lists."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from grkd.doctor.finding import Finding, error, note, warning
from grkd.doctor.settings import few_steps
from grkd.lists.context import HELDOUT, NONE, TRAIN, PreparedLists, RankContext
from grkd.lists.metrics import list_columns
from grkd.lists.prepare import prepare
from grkd.lists.score import combined, uses_data
from grkd.lists.teachers import scored_by
from grkd.rankers.agreement import kendall_tau
from grkd.recipe import RankRecipe
from grkd.run.folder import RunFolder

_LISTS = 32
_READ = 2_000  # lists of each part
_FEW_HELD_OUT, _SHARE, _TAU = 30, 0.2, 0.2


def look_at_lists(recipe: RankRecipe, folder: RunFolder) -> Iterator[Finding]:
    """Data first, then the teachers on a few lists."""
    small = replace(recipe, data=replace(recipe.data, limit=min(recipe.data.limit or _READ, _READ)))
    context = RankContext(small, folder)
    prepare(context)
    lists = context.lists
    yield from _overlap(lists)
    if small == recipe or len(lists.queries) < _READ:  # else more lists are there than were read
        yield from few_steps(int((lists.part != HELDOUT).sum()), recipe)
    if uses_data(recipe):
        yield from _words(lists)
    yield from _grades(lists)
    yield from _lengths(lists, recipe)
    if recipe.teacher.served is not None:
        yield note(
            "teacher", "a served teacher was not asked, because requests may cost money", "test it yourself first"
        )
        return
    few = replace(recipe, data=replace(recipe.data, limit=min(recipe.data.limit or _LISTS, _LISTS)))
    yield from _teachers(RankContext(few, RunFolder(folder.path / "few")))


def _overlap(lists: PreparedLists) -> Iterator[Finding]:
    texts = [" ".join(query.lower().split()) for query in lists.queries]
    train = {texts[one] for one in lists.of(TRAIN).tolist()}
    heldout = lists.of(HELDOUT).tolist()
    if shared := sum(texts[one] in train for one in heldout):
        text = f"{shared} of {len(heldout)} held-out queries are also in the training data"
        yield warning("overlap", text, "remove them from one of the files; otherwise metrics reward memorisation")
    if len(heldout) < _FEW_HELD_OUT:
        text = f"{len(heldout)} held-out queries: intervals will be wide"
        yield note("held out", text, "hold out more, with data.heldout or data.heldout_fraction")


def _words(lists: PreparedLists) -> Iterator[Finding]:
    """Lists whose order says nothing, or is the order in which the candidates stand."""
    word = lists.word.masked_fill(~lists.exists, torch.nan)
    tied = [len(set(row[row.isfinite()].tolist())) < 2 for row in word]
    if (count := sum(tied)) > _SHARE * len(tied):
        text = f"in {count} of {len(tied)} lists all candidates are tied or unknown, so so there is nothing to learn"
        yield warning("tied lists", text, "drop them, or name models in teacher.models")
    falling = [bool((row[row.isfinite()].diff() < 0).all()) for row, same in zip(word, tied, strict=True) if not same]
    if len(falling) > 5 and all(falling):
        text = "in every list the candidates are already in the teacher's order"
        yield note(
            "given order", text, "no action for these students; shuffle them before a language model judges them"
        )


def _grades(lists: PreparedLists) -> Iterator[Finding]:
    heldout = lists.grades[lists.of(HELDOUT)]
    if not bool(heldout.isfinite().any()):
        text = "no held-out list has grades: students can only be measured by their agreement with the teacher"
        yield note("grades", text, "add human grades to the held-out lists")
        return
    empty = int((heldout.nan_to_num(0.0) <= 0).all(-1).sum())
    if empty > _SHARE * len(heldout):
        text = f"in {empty} of {len(heldout)} held-out lists no candidate is relevant, so no student can be right"
        yield warning("grades", text, "mine more candidates, or hold out other queries")


def _lengths(lists: PreparedLists, recipe: RankRecipe) -> Iterator[Finding]:
    """Documents with more words than the limit of tokens: a token is a word at the most."""
    limits = [("student", recipe.student.max_tokens)] if recipe.student.model != "tower" else []
    limits += [("teacher", recipe.teacher.max_tokens)] if recipe.teacher.models else []
    used = lists.candidates[lists.candidates != NONE].unique().tolist()
    for side, limit in limits:
        long = sum(len(lists.documents[one].split()) > limit for one in used)
        if long > _SHARE * len(used):
            text = f"{long} of {len(used)} candidates exceed the {side}'s limit of {limit} tokens and are truncated"
            yield warning("cut texts", text, f"raise {side}.max_tokens, or split the candidates")


def _teachers(context: RankContext) -> Iterator[Finding]:
    prepare(context)
    lists, teacher = context.lists, context.recipe.teacher
    rows = torch.arange(len(lists.queries))
    scores = combined(context)["scores"]
    if not bool(scores.isfinite().any()):
        yield error("teacher", "it has no opinion on any candidate", "name models in teacher.models")
        return
    known = bool((lists.grades.nan_to_num(0.0) > 0).any())
    if known and not (uses_data(context.recipe) and not teacher.models and lists.kind == "tiers"):
        given, guessed = _ndcg(lists, rows, scores), _guessed(lists, rows)
        if given <= guessed:
            text = f"the teacher's NDCG@10 is {given:.3f} on {len(rows)} lists, that of a random order {guessed:.3f}"
            yield warning("teacher", text, "check the sign of its scores: higher must be better")
    for place, one in enumerate(teacher.models):
        for other in teacher.models[place + 1 :]:
            taus = kendall_tau(scored_by(context, one).numpy(), scored_by(context, other).numpy())
            if not np.isnan(taus).all() and (tau := float(np.nanmean(taus))) < _TAU:
                text = f"{one} and {other} hardly agree: Kendall's tau {tau:.2f}"
                yield warning("agreement", text, "keep the one that you trust, or teacher.combine: votes")


def _ndcg(lists: PreparedLists, rows: Tensor, scores: Tensor) -> float:
    values = list_columns(lists, rows, scores.nan_to_num(-1e9)).get("list_ndcg10", np.array([0.0]))
    return float(np.nanmean(values))


def _guessed(lists: PreparedLists, rows: Tensor) -> float:
    """NDCG@10 of random orders, the mean of eight."""
    drawn = torch.Generator().manual_seed(0)
    shape = lists.candidates.shape
    return float(np.mean([_ndcg(lists, rows, torch.rand(shape, generator=drawn)) for _ in range(8)]))
