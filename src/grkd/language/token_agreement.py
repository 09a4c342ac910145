"""How far several teachers agree on tokens: measured on held-out responses, from the scores that are stored."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import torch

from grkd.console import console
from grkd.data.language import Item
from grkd.files import write_json
from grkd.language.context import LanguageContext
from grkd.metrics.rank_measures import against_teacher
from grkd.recipe import label_of
from grkd.teacher.pooled_scores import PooledScores

TOKENS_AGREE = "teachers.json"
_MOST = 256  # responses
_MEASURES = ("kendall_tau", "top1_agreement")


@torch.no_grad()
def token_agreement(context: LanguageContext, stored: PooledScores, items: Sequence[Item], work: Path) -> None:
    """Write work/teachers.json: of every two teachers Kendall's tau, and how often the likeliest token is the same.

    Tau: over the evaluation.top_k likeliest tokens of either, the mean of both.
    """
    assert isinstance(context.recipe.teacher, list)
    labels, top_k = [label_of(each) for each in context.recipe.teacher], context.recipe.evaluation.top_k
    vocabulary = context.models.numbers["vocabulary"]
    sums = {pair: torch.zeros(len(_MEASURES) + 1, dtype=torch.float64) for pair in combinations(range(len(labels)), 2)}
    for item in [each for each in items if stored.has(each)][:_MOST]:
        scores, weights = stored.each(stored.collate([item]), vocabulary=vocabulary)
        for one, two in sums:
            both = (weights[one] > 0) & (weights[two] > 0)
            if not both.any():
                continue
            measured = [
                against_teacher(scores[first][both], scores[second][both], top_k=top_k)
                for first, second in ((one, two), (two, one))
            ]
            for at, name in enumerate(_MEASURES):
                sums[one, two][at] += sum(float(each[name].double().nansum()) for each in measured) / 2
            sums[one, two][-1] += int(both.sum())
    pairs = []
    for (one, two), (*totals, tokens) in ((pair, each.tolist()) for pair, each in sums.items()):
        means = {name: total / tokens if tokens else None for name, total in zip(_MEASURES, totals, strict=True)}
        pairs.append({"teachers": [labels[one], labels[two]], "tokens": int(tokens), **means})
        if tokens:
            console.print(
                f"{labels[one]} and {labels[two]}: the same likeliest token at {means['top1_agreement']:.0%} of "
                f"{int(tokens):,} held-out tokens, Kendall's tau {means['kendall_tau']:.2f}",
                soft_wrap=True,
            )
    write_json(work / TOKENS_AGREE, {"top_k": top_k, "pairs": pairs})
