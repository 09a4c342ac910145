"""Rank fidelity of a student: its distribution and its order of responses beside the teacher's, on held-out groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from grkd.data.language import Group
from grkd.language.context import LanguageContext
from grkd.language.rows import language_rows
from grkd.metrics.rank_measures import against_teacher, response_measures
from grkd.metrics.registry import OF_RANKS, OF_RESPONSES, metric_of
from grkd.models.shard import in_turns
from grkd.ranks import gathered
from grkd.statistics import bootstrap_interval
from grkd.teacher.cached_teacher import token_measures
from grkd.training import LanguageRows
from grkd.training.groups_before import own_batches
from grkd.training.rows import moved


def rank_metrics(
    context: LanguageContext,
    student: nn.Module,
    groups: Sequence[Group],
    *,
    description: str,
    by_group: dict[str, list[float]] | None = None,
) -> dict[str, Any]:
    """metric -> {value, low, high}: means over the groups' tokens, and over prompts for the order of their responses.

    by_group: gets the student's mean log-probability of every response, by the group's id.

    Intervals by resampling conversations, whose turns vary together. ndcg of tokens is over the teacher's top k in the
    student's order, its gains the teacher's probabilities. Where the two vocabularies differ, what is of whole
    responses; with score.other_vocabulary: tokens also these measures over the tokens that both spell, renormalised,
    at the places where both predict.
    """
    ranks = context.models.cached
    measures = OF_RANKS if ranks is None else token_measures(ranks)
    tokens = (context.models.tokens_cross or context.models.crosses) and bool(measures)
    rows = language_rows(context, groups, teacher=tokens)
    rows.to(context.models.device)
    own: list[_Part] = []
    step = max(1, context.recipe.evaluation.batch_size // max(len(group.items) for group in groups))
    with in_turns(rows.teacher):
        for first, part in own_batches(groups, step, description, context.run.ranks):
            own.append(_measured(context, rows, student, part, first, tokens=tokens))
    parts = sorted(gathered(own, description), key=lambda part: part.first)
    if by_group is not None:
        for measured in parts:
            by_group.update(measured.means)
    metrics: dict[str, Any] = {}
    conversations = np.array([at if one.conversation is None else one.conversation for at, one in enumerate(groups)])
    if tokens:
        numbers = conversations[np.concatenate([part.prompts for part in parts])]
        for metric in (each for each in parts[0].tokens if each in measures):
            values = np.concatenate([part.tokens[metric] for part in parts])
            share = metric_of(metric).is_share
            metrics[metric] = bootstrap_interval(values, groups=numbers, share=share).as_json()
    if any(len(group.items) > 1 for group in groups):
        for metric in OF_RESPONSES:
            found = np.concatenate([part.responses[metric] for part in parts])
            if not np.isnan(found).all():  # a group without a pair has no order
                name, share = f"response_{metric}", metric_of(f"response_{metric}").is_share
                metrics[name] = bootstrap_interval(found, groups=conversations, share=share).as_json()
    return metrics


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Measures of some groups, the first of which is number `first` of all.

    tokens: by metric, a value per token; prompts: each token's group number. responses: by metric, a value per group.
    means: mean log-probability of every response, by group.
    """

    first: int
    tokens: dict[str, np.ndarray]
    prompts: np.ndarray
    responses: dict[str, np.ndarray]
    means: dict[str, list[float]]


@torch.no_grad()
def _measured(
    context: LanguageContext, rows: LanguageRows, student: nn.Module, part: Sequence[Group], first: int, *, tokens: bool
) -> _Part:
    batch = moved(rows.collate(part), context.models.device)
    found = rows.forward(student, batch, levels=("row", "response") if tokens else ("response",)).batches
    of_tokens: dict[str, torch.Tensor] = {}
    if tokens:
        teacher = found["row"].teacher
        assert teacher is not None
        of_tokens = against_teacher(found["row"].student, teacher, top_k=context.recipe.evaluation.top_k)
    order = found["response"]
    assert order.teacher is not None
    assert order.mask is not None
    of_responses = response_measures(order.student.double(), order.teacher.double(), order.mask)
    lengths = [sum(rows.rows_of(group)) for group in part]
    means = zip(part, order.student.tolist(), strict=True)
    return _Part(
        first=first,
        tokens={metric: values.double().cpu().numpy() for metric, values in of_tokens.items()},
        prompts=np.repeat(np.arange(first, first + len(part)), lengths),
        responses={metric: of_responses[metric].cpu().numpy() for metric in OF_RESPONSES},
        means={group.id: values[: len(group.items)] for group, values in means},
    )
