"""A cache of ranks in a teacher's place: what the score stage and rankers may ask of it, and its dense scores."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.data.language import Item
from grkd.errors import UserError
from grkd.teacher.annotator import Verdict
from grkd.teacher.rank_cache import RankCache, content_key

_KEY = "teacher_records"
_STEP = 1e-4  # nats; far below what 8 bits tell apart


class CachedTeacher:
    """Mean log-probabilities of the cache's own responses. (It is a grkd.rankers.Teacher.)"""

    context = None

    def __init__(self, cache: RankCache, tokenizer: Any) -> None:
        self.cache, self.tokenizer = cache, tokenizer
        self._means = cache.means()

    def mean_log_probs(
        self, prompts: Sequence[Any], responses: Sequence[Sequence[str]], columns: Mapping[str, Sequence[Any]]
    ) -> list[list[float]]:
        """Of each response, nats per token, from columns prompt_ids and response_ids. Raises UserError as `scored`."""
        items = [
            [Item(id=str(group), prompt_ids=prompt_ids, response_ids=ids) for ids in each]
            for group, prompt_ids, each in zip(
                columns.get("group", range(len(prompts))), columns["prompt_ids"], columns["response_ids"], strict=True
            )
        ]
        return [self.scored(each)[0] for each in items]

    def choices(
        self, prompts: Sequence[Any], responses: Sequence[Sequence[str]], columns: Mapping[str, Sequence[Any]]
    ) -> list[Verdict]:
        raise UserError("a cache of ranks is not asked for choices; name the ranker log_prob, judge or verifier")

    def scored(self, items: Sequence[Item], *, keep: Collection[str] = ()) -> tuple[list[float], dict[str, Tensor]]:
        """Mean log-probability of each response; nothing of its tokens, which lie in the cache.

        Raises UserError for a response that is not in the cache.
        """
        for item in items:
            if content_key(item) not in self._means:
                raise UserError(
                    f"{self.cache.folder}: response {item.id} is not in the cache; build it from this recipe's data, "
                    "or set responses.source: teacher"
                )
        return [self._means[content_key(item)] for item in items], {}


class DenseScores:
    """A cache's records as scores of the whole vocabulary, to measure with. (They are StoredScores.)

    With log-probabilities of the top candidates: log p of those, the rest of the mass shared equally by the others. Of
    an order alone: minus the number of the tier, candidates outside the record one tier below the last.
    """

    def __init__(self, cache: RankCache) -> None:
        self.cache = cache

    def has(self, item: Item) -> bool:
        return item in self.cache

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        return {_KEY: self.cache.rows(items)}

    def scores(self, batch: Mapping[str, Any], *, vocabulary: int) -> Float[Tensor, "rows vocabulary"] | None:
        if _KEY not in batch:
            return None
        found = self.cache.codec.decode(batch[_KEY])
        tiers, entries = found.tiers.float(), found.ids.shape[-1]
        if found.log_weights is None or found.log_tail is None:
            best, below = -tiers, torch.full_like(tiers[:, :1], -float(entries))
        else:
            # Neighbours in order may share a code of 8 bits: the order is exact, log-probabilities are not.
            best = found.log_weights - _STEP * tiers
            below = (found.log_tail[:, None] - math.log(max(vocabulary - entries, 1))).minimum(best[:, -1:] - _STEP)
        return below.expand(-1, vocabulary).scatter(-1, found.ids, best)


def token_measures(cache: RankCache) -> tuple[str, ...]:
    """What can be measured of tokens against this cache: all, the order alone, or nothing (of a sample)."""
    if cache.codec.choose == "sample":
        return ()
    order = ("pair_accuracy", "kendall_tau", "top1_agreement")
    if not cache.codec.log_probs or cache.origin.temperature != 1:
        return order
    return (*order, "ndcg", "soft_cross_entropy_nats", "forward_kl_nats", "reverse_kl_nats")
