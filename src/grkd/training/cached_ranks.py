"""Rows from a cache of ranks: the student's scores of the candidates that are cached, beside the teacher's order."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from grkd.errors import UserError
from grkd.groups import wide
from grkd.objectives import Batch, Objective, Votes
from grkd.objectives.methods.grkd import GRKD
from grkd.objectives.methods.kd import KD
from grkd.objectives.parts.pairs import Pairs
from grkd.objectives.parts.soft_target import SoftTarget
from grkd.teacher.rank_cache import RankCache, missing_from, vocabulary_digest
from grkd.teacher.rank_codec import RankCodec
from grkd.training.evaluation_metrics import TOKENS
from grkd.training.groups_of_responses import evaluation_sets

if TYPE_CHECKING:
    from grkd.training.grkd_config import GRKDConfig

_NOTHING = -1e4  # log-probability of a candidate that the teacher gives none


def cached_batch(
    student: Float[Tensor, "tokens vocabulary"],
    records: UInt8[Tensor, "tokens bytes"],
    codec: RankCodec,
    *,
    temperature: float,
    pairs: bool = True,
    **columns: Any,
) -> Batch:
    """Candidates are those of each token's record and, if the cache has log-probabilities, all others as one.

    The student's score of all others is T log sum exp(s / T) over them, T the cache's `temperature`, so that softmaxes
    at T over these candidates are the student's own probabilities. Pairs are those that the record orders, as votes;
    pairs: False leaves them out, whose memory grows as the square of the candidates.
    Top candidates: the soft targets are the teacher's over the candidates and all others, a lower bound of the full
    divergence. A sample: its weights p / pi add up to 1, and the mean of its cross-entropy is the full one's. Entries
    that a token does not have are masked.
    """
    found = codec.decode(records)
    picked, tiers = student.gather(-1, found.ids), found.tiers
    size, soft = tiers.shape[-1], found.log_weights
    scores = -tiers.float() if soft is None else temperature * soft
    if soft is not None and codec.entries < codec.vocabulary:
        rest = student.scatter(-1, found.ids, -torch.inf)
        others = temperature * (wide(rest) / temperature).logsumexp(-1, keepdim=True)
        of_teacher = torch.full_like(scores[:, :1], temperature * _NOTHING)
        if found.log_tail is not None:
            of_teacher = temperature * found.log_tail[:, None]
        picked, scores = torch.cat([wide(picked), others], -1), torch.cat([scores, of_teacher], -1)
    mask = found.exists
    if mask is not None:
        mask = torch.nn.functional.pad(mask, (0, picked.shape[-1] - size), value=True)
        scores = scores.masked_fill(~mask, temperature * _NOTHING)
    votes = _ordered(tiers, picked.shape[-1], mask) if pairs else None
    return Batch(student=picked, teacher=scores, mask=mask, votes=votes, **columns)


def _ordered(
    tiers: Int[Tensor, "tokens entries"], candidates: int, mask: Bool[Tensor, "tokens candidates"] | None
) -> Votes:
    """Each pair of entries of different tiers, the first above; none with all others as one, which come last."""
    size = tiers.shape[-1]
    weights = torch.zeros(len(tiers), candidates, candidates, device=tiers.device)
    weights[:, :size, :size] = (tiers.unsqueeze(-1) != tiers.unsqueeze(-2)).float()
    if mask is not None:
        weights *= mask.unsqueeze(-1) & mask.unsqueeze(-2)
    return Votes(targets=torch.ones_like(weights).triu(1), weights=weights)


def opened_cache(given: Any, objective: Objective, args: "GRKDConfig", tokenizer: Any) -> RankCache | None:
    """The cache of a folder, if it serves the method and the student's vocabulary. Raises UserError if it does not."""
    if given is None:
        return None
    cache = given if isinstance(given, RankCache) else RankCache(Path(given))
    check_fits(objective, args.method, cache)
    if vocabulary_digest(tokenizer) != cache.origin.vocabulary:
        raise UserError(
            f"{cache.folder}: it was made for another vocabulary than the student's; take a student with the tokenizer "
            f"of {cache.origin.teacher}"
        )
    measured = [name for name in args.eval_metrics or () if name in TOKENS]
    if measured:
        raise UserError(
            f"eval_metrics {', '.join(measured)} need the teacher itself, not a cache of ranks; remove them"
        )
    return cache


def groups_of_cache(cache: RankCache, train: Any, evaluation: Any) -> tuple[Any, Any]:
    """The groups that are trained on and evaluated: the cache's own if none are given.

    Raises UserError for given ones that the cache lacks.
    """
    for where, groups in {"train_dataset": train or (), **evaluation_sets(evaluation)}.items():
        missing_from(cache, groups, where)
    train = cache.groups("train") if train is None else train
    if not train:
        raise UserError(f"{cache.folder}: it holds no training responses; give train_dataset")
    return train, evaluation if evaluation is not None else cache.groups("heldout") or None


def check_fits(objective: Objective, name: str, cache: RankCache) -> None:
    """Raises UserError for a method, or an option of it, that the cache's entries cannot serve."""
    if not isinstance(objective, KD | GRKD):
        raise UserError(f"{name} cannot learn from a cache of ranks; use kd, or grkd with hard pairs and soft_target")
    unused = {"label_weight": 0, "standardize": False, "on_policy_fraction": 0, "teacher_temperature": 1}
    for option, value in unused.items():
        if getattr(objective, option, value) != value:
            raise UserError(f"{name}: {option} cannot be used with a cache of ranks; remove it")
    if isinstance(objective, KD):
        _check_soft(name, "temperature", objective.temperature, "cross_entropy", cache)
    else:
        for part in objective.active_parts("row"):
            if isinstance(part, Pairs) and part.over == "candidates" and part.target == "hard":
                continue
            if isinstance(part, SoftTarget) and part.over == "candidates":
                _check_soft(name, "soft_target.temperature", part.temperature, part.divergence, cache)
                continue
            raise UserError(f"{name}: part {part.short_name()} cannot be computed from a cache of ranks; remove it")
        if not any(isinstance(part, Pairs | SoftTarget) for part in objective.active_parts("row")):
            raise UserError(f"{name} reads no teacher's scores of tokens; remove the cache")


def soft_temperatures(objective: Objective) -> set[float]:
    """Temperatures of the soft targets that a method learns from a cache."""
    if isinstance(objective, KD):
        return {objective.temperature}
    if isinstance(objective, GRKD):
        return {part.temperature for part in objective.active_parts("row") if isinstance(part, SoftTarget)}
    return set()


def _check_soft(name: str, option: str, temperature: float, divergence: str, cache: RankCache) -> None:
    if not cache.codec.log_probs:
        raise UserError(
            f"{name} has soft targets, and {cache.folder} holds the order alone; build it without --order-only, or "
            "take grkd with anchor: []"
        )
    if temperature != cache.origin.temperature:
        known = f"{cache.origin.temperature:g}"
        raise UserError(
            f"{name}: {option} is {temperature:g}, and {cache.folder} was built with --temperature {known}; set "
            f"{option}: {known}, or build it with --temperature {temperature:g}"
        )
    if cache.codec.choose == "sample" and divergence not in ("cross_entropy", "forward_kl"):
        raise UserError(f"{name}: {divergence} needs a cache of the top candidates; build it with --choose top")
