"""A recipe whose teacher is a cache of ranks: what the cache must fit, and its responses to the recipe's prompts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grkd import objectives
from grkd.console import console
from grkd.errors import UserError
from grkd.files import digest
from grkd.language.context import LanguageContext
from grkd.language.examples import SPLITS
from grkd.language.shard import Shard
from grkd.recipe import CachedTeacher, LanguageRecipe
from grkd.teacher.cached_teacher import token_measures
from grkd.teacher.rank_cache import RankCache, vocabulary_digest
from grkd.training.cached_ranks import check_fits

Record = dict[str, Any]


def check_cache(recipe: LanguageRecipe) -> None:
    """Raises UserError for a cache that is absent or incomplete, and for methods and measures that it cannot serve."""
    if not isinstance(recipe.teacher, CachedTeacher):
        return
    cache = RankCache(Path(recipe.teacher.cache))
    for method in recipe.methods:
        objective = objectives.load(method.name, **method.options)
        if objective.needs_teacher and "row" in objective.levels:
            check_fits(objective, method.label, cache)
    measures = token_measures(cache)
    if measures and recipe.evaluation.top_k > cache.codec.entries:
        raise UserError(
            f"evaluation.top_k: {recipe.evaluation.top_k} is above the {cache.codec.entries} candidates per token in "
            f"{cache.folder}; lower it"
        )
    search = recipe.search
    by = search and (search.metric or (None if search.questions else "soft_cross_entropy_nats"))
    if by and by != "exact_match" and not by.startswith("response_") and by not in measures:
        listed = ", ".join(measures) or "exact_match, with search.questions"
        raise UserError(f"search.metric: {by} cannot be measured against {cache.folder}; it can: {listed}")


def check_tokens(context: LanguageContext) -> None:
    """Raises UserError if the cache is damaged, or of another vocabulary or chat template than the student's."""
    cache, tokenizer = context.models.cached, context.models.tokenizer
    if cache is None:
        return
    cache.check_whole()
    for what, own, known in (
        ("vocabulary", vocabulary_digest(tokenizer), cache.origin.vocabulary),
        ("chat template", digest(tokenizer.chat_template), cache.origin.template),
    ):
        if own != known:
            raise UserError(
                f"teacher.cache: {cache.folder} was made with another {what} than the student's; take a student with "
                f"the tokenizer of the build (its run's prepare/tokenizer), or rebuild the cache"
            )


class CachedSampler:
    """As grkd.language.sampling.Sampler: the responses to each prompt that the cache has from one source."""

    def __init__(self, context: LanguageContext, source: str, share: int, prompts: Sequence[Record]) -> None:
        cache = context.models.cached
        assert cache is not None
        self.share = share
        found: Mapping[tuple[int, ...], dict[tuple[int, ...], None]] = defaultdict(dict)
        for group in (group for split in SPLITS for group in cache.groups(split)):
            for item, own in zip(group.items, group.sources, strict=True):
                if own == source:
                    found[tuple(item.prompt_ids)][tuple(item.response_ids)] = None
        self._found = {prompt: [list(ids) for ids in responses] for prompt, responses in found.items()}
        _check_prompts(context, cache, source, prompts, self._found)

    def __call__(self, shard: Shard) -> list[list[list[int]]]:
        """Token ids of the responses to each prompt; nothing is sampled, so there is nothing to keep or count."""
        shard.progress(len(shard.prompts) * self.share, 0)
        return [self._found.get(tuple(prompt["prompt_ids"]), [])[: self.share] for prompt in shard.prompts]


def _check_prompts(
    context: LanguageContext,
    cache: RankCache,
    source: str,
    prompts: Sequence[Record],
    found: Mapping[tuple[int, ...], list[list[int]]],
) -> None:
    """Raises UserError if the cache knows none of the prompts, and for responses that would be cut; says how many."""
    missing = sum(tuple(prompt["prompt_ids"]) not in found for prompt in prompts)
    if missing == len(prompts):
        raise UserError(
            f"teacher.cache: {cache.folder} has no response from the {source} to any of the {len(prompts)} prompts; it "
            "was built from other data, another system message or another responses.source; use those of the build"
        )
    if missing and context.run.ranks.is_main_process:
        console.print(
            f"[yellow]teacher.cache: it has no response from the {source} to {missing} of {len(prompts)} prompts"
            "[/yellow]",
            soft_wrap=True,
        )
    longest = max(len(ids) for responses in found.values() for ids in responses)
    limit = context.recipe.responses.max_new_tokens
    if longest > limit:
        raise UserError(
            f"responses.max_new_tokens: {limit}, and {cache.folder} has responses of up to {longest} tokens; raise it"
        )
