"""Filling a cache of ranks, shard by shard: from a teacher in memory, or from whoever gives the records."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from accelerate.utils import send_to_device
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from grkd.console import progress_bar
from grkd.data.language import Group, Item, collate, response_logits
from grkd.errors import UserError
from grkd.groups import wide
from grkd.models.shard import in_turns
from grkd.ranks import ranks, wait
from grkd.teacher.rank_cache import RankCache, content_key
from grkd.teacher.rank_codec import RankCodec
from grkd.teacher.rank_draws import candidates_of, fitting_share, likeliest_masses

_RESPONSES_PER_SHARD = 256
_TOKENS_LOOKED_AT = 4096  # before the build, for the share of a sample's entries
_TOKENS_AT_A_TIME = 256  # whose scores are ordered at once: of 262k candidates 268 MB in float32


Asked = Callable[[Sequence[Item], int], tuple[torch.Tensor, list[float]]]


def fill(cache: RankCache, teacher: PreTrainedModel, groups: Sequence[Group], *, batch_size: int) -> None:
    """Write the records of all responses of these groups that the cache lacks, from a teacher in memory.

    A shard's draws depend on the cache's seed and the shard's number, not on ranks or kills.
    Raises UserError for a teacher whose scores are not finite.
    """

    @torch.no_grad()
    def asked(items: Sequence[Item], number: int) -> tuple[torch.Tensor, list[float]]:
        seed = cache.origin.seed * 1_000_003 + number
        draws = torch.Generator(teacher.device).manual_seed(seed)
        rounding = torch.Generator().manual_seed(seed + 1)
        order = sorted(range(len(items)), key=lambda at: len(items[at].prompt_ids) + len(items[at].response_ids))
        records, means = [torch.empty(0)] * len(items), [0.0] * len(items)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            found, log_probs = _records(cache, teacher, [items[at] for at in places], draws, rounding)
            lengths = [len(items[at].response_ids) for at in places]
            each = log_probs.double().cpu().split(lengths)
            for at, rows, values in zip(places, found.split(lengths), each, strict=True):
                records[at], means[at] = rows, float(values.mean())
        return torch.cat(records), means

    fill_by(cache, groups, asked, model=teacher)


@torch.no_grad()
def with_share(
    codec: RankCodec, teacher: PreTrainedModel, groups: Sequence[Group], *, temperature: float, batch_size: int
) -> RankCodec:
    """For a sample with weights the codec with the share that gives `entries` per token on average; else as it is.

    By tokens of responses spread over the groups. All processes call the teacher equally often.
    Raises UserError for a teacher whose scores are not finite.
    """
    if not codec.is_weighted_sample or codec.entries == codec.vocabulary:
        return codec
    items = [item for group in groups for item in group.items]
    tokens = sum(len(item.response_ids) for item in items)
    items = items[:: max(1, tokens // _TOKENS_LOOKED_AT)]
    number = replace(codec, share=1.0).largest
    masses = []
    with progress_bar() as bar:
        task = bar.add_task("share of a sample's entries", total=len(items), unit="responses")
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            scores, _ = _scores(teacher, part, codec.vocabulary)
            own = scores.split(_TOKENS_AT_A_TIME)
            masses += [likeliest_masses(rows, number=number, temperature=temperature) for rows in own]
            bar.update(task, advance=len(part))
    return replace(codec, share=fitting_share(torch.cat(masses), entries=codec.entries))


def fill_by(
    cache: RankCache,
    groups: Sequence[Group],
    asked: Asked,
    *,
    model: nn.Module | None = None,
    written: Callable[[int], None] = lambda _: None,
) -> None:
    """The same from any teacher; ranks share the shards.

    asked(items, shard) gives the records of the responses' tokens, item by item, and each response's mean
    log-probability, nats per token. model: that it calls, which may be sharded over the ranks. written(shard) is called
    when they are on the disk.
    """
    items = {
        content_key(item): (item, source)
        for group in groups
        for item, source in zip(group.items, group.sources, strict=True)
    }
    keys = list(items)
    shards = [keys[at : at + _RESPONSES_PER_SHARD] for at in range(0, len(keys), _RESPONSES_PER_SHARD)]
    state = ranks()
    mine = range(state.process_index, len(shards), state.num_processes)
    missing = [number for number in mine if any(key not in cache.records for key in shards[number])]
    cache.records.check_free(missing)
    with progress_bar() as bar, in_turns(model):
        task = bar.add_task("cache of ranks", total=sum(len(shards[number]) for number in missing), unit="responses")
        for number in missing:
            part = [(key, *items[key]) for key in shards[number] if key not in cache.records]
            _write_texts(cache, number, part)
            records, means = asked([item for _, item, _ in part], number)
            rows = records.split([len(item.response_ids) for _, item, _ in part])
            found = {key: cache.codec.pack(own) for (key, _, _), own in zip(part, rows, strict=True)}
            cache.records.write_shard(found, number=number, metadata={"means": means})
            written(number)
            bar.update(task, advance=len(part))
    wait("cache of ranks")


def _write_texts(cache: RankCache, number: int, part: Sequence[tuple[str, Item, str]]) -> None:
    """The prompts and responses of a shard, unless a killed build has written them."""
    new = [(key, item, source) for key, item, source in part if key not in cache.texts]
    if new:
        cache.texts.write_shard(
            {key: torch.tensor([*item.prompt_ids, *item.response_ids])[:, None] for key, item, _ in new},
            number=number,
            metadata={
                "names": [item.id for _, item, _ in new],
                "prompt_lengths": [len(item.prompt_ids) for _, item, _ in new],
                "sources": [source for _, _, source in new],
            },
        )


def _records(
    cache: RankCache, teacher: PreTrainedModel, items: Sequence[Item], draws: torch.Generator, rounding: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The records of the responses' tokens, item by item, and each token's log-probability, nats."""
    scores, labels = _scores(teacher, items, cache.codec.vocabulary)
    parts, log_probs = [], []
    for rows, own in zip(scores.split(_TOKENS_AT_A_TIME), labels.split(_TOKENS_AT_A_TIME), strict=True):
        log_probs.append(wide(rows).log_softmax(-1).gather(-1, own[:, None])[:, 0])
        candidates = candidates_of(rows, cache.codec, temperature=cache.origin.temperature, generator=draws)
        parts.append(cache.codec.encode(candidates, generator=rounding))
    return torch.cat(parts), torch.cat(log_probs)


def _scores(
    teacher: PreTrainedModel, items: Sequence[Item], vocabulary: int
) -> tuple[Float[Tensor, "tokens vocabulary"], Int[Tensor, " tokens"]]:
    """The teacher's scores at the responses' tokens, item by item, and these tokens."""
    batch = send_to_device(collate(items, pad_token_id=0), teacher.device)  # padding is masked, so any id will do
    scores = response_logits(teacher, batch)[batch["response_mask"]][:, :vocabulary]
    if not scores.isfinite().all():
        names = ", ".join(item.id for item in items[:4])
        raise UserError(f"the teacher's scores of {names} are not finite; try teacher.dtype: float32")
    return scores, batch["response_ids"][batch["response_mask"]]
