"""The candidates of a token that a cache of ranks keeps: the teacher's top, or a sample without replacement."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd.errors import UserError
from grkd.groups import wide
from grkd.teacher.rank_codec import RankCodec
from grkd.teacher.token_candidates import Candidates

_LEAST = -700.0  # log of the least mass that is told from 0
_LEAST_SHARE, _HALVINGS = 1e-9, 60


@torch.no_grad()
def candidates_of(
    scores: Float[Tensor, "tokens vocabulary"],
    codec: RankCodec,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Candidates:
    """What a record keeps of the teacher's scores of N tokens, as `codec` says.

    p = softmax(scores / temperature).
    top: the best `entries`; weights p_k, tail 1 - sum of them.
    sample: a candidate is in it with probability pi_k = min(1, p_k / tau), tau such that the sum of pi is its number n
    of entries, and its weight is p_k / pi_k = max(p_k, tau). So the likeliest are there for certain with p_k itself,
    each of the others stands for the same mass tau, the weights add up to 1, and for any f the sum of weight * f(k)
    over the sample has the mean sum_k p_k f(k). No unbiased sample of n has a smaller sum of the weights' variances.
    n is `entries`, or with `codec.share` the least for which tau <= share: the smallest integer not below
    sum_k min(1, p_k / share). One more entry takes about tau^2 off the sum of the variances, so tokens of one tau have
    the least noise together for their mean number of entries.
    generator: on the scores' device.
    Source: Fearnhead and Clifford, J. R. Statist. Soc. B 65 (2003), 887-899.
    """
    logs, counts, certain = (wide(scores) / temperature).log_softmax(-1), None, None
    if codec.choose == "top":
        ids = logs.topk(codec.entries, dim=-1).indices
        weights = logs.gather(-1, ids)
    else:
        masses = logs.double().clamp_min(_LEAST).exp()
        counts = _counts(masses, codec)
        ids, weights, certain = _systematic(masses, counts, codec.largest, generator)
        weights = weights.to(logs.dtype)
    # Best first; equal scores in the order of their ids, which says nothing, and a bit says that they are equal.
    own = scores.gather(-1, ids)
    by_id = ids.argsort(-1)
    order = by_id.gather(-1, own.gather(-1, by_id).sort(dim=-1, descending=True, stable=True).indices)
    if certain is not None:  # those that do not exist come last
        absent = (weights == -torch.inf).gather(-1, order).long()
        order = order.gather(-1, absent.argsort(dim=-1, stable=True))
    own = own.gather(-1, order)
    ids, weights, tail = ids.gather(-1, order), weights.gather(-1, order), None
    exists = (weights > -torch.inf) | (codec.choose == "top")  # of the top all do, those of probability 0 too
    if codec.choose == "top":
        tail = logs.scatter(-1, ids, -torch.inf).logsumexp(-1).clamp_min(-100.0)
    return Candidates(
        ids=ids.where(exists, ids[:, :1]),
        tied=(own[:, 1:] == own[:, :-1]) & exists[:, 1:],
        log_weights=weights if codec.log_probs else None,
        log_tail=tail if codec.log_probs else None,
        counts=None if codec.share is None else counts,
        certain=certain,
    )


def candidates_of_top(
    ids: Int[Tensor, "tokens k"], log_probs: Float[Tensor, "tokens k"], codec: RankCodec
) -> Candidates:
    """What a record keeps of the k likeliest entries of N tokens, k at least `codec.entries`, at temperature 1.

    Each of the k was chosen for certain and no other can be: there are no inclusion probabilities to divide by, so the
    weights are the probabilities, the tail 1 - sum of them, and soft targets a lower bound, as of `candidates_of` with
    choose "top". Equal log-probabilities are tied.
    Raises UserError for an entry outside the vocabulary.
    """
    if int(ids.max()) >= codec.vocabulary:
        raise UserError(f"teacher: it names token {int(ids.max())}, and the vocabulary has {codec.vocabulary}")
    by_id = ids.argsort(-1)
    order = log_probs.gather(-1, by_id).sort(dim=-1, descending=True, stable=True).indices[:, : codec.entries]
    order = by_id.gather(-1, order)
    ids, best = ids.gather(-1, order), log_probs.gather(-1, order)
    left = (1 - best.double().exp().sum(-1)).clamp_min(1e-12).log().float()
    return Candidates(
        ids=ids,
        tied=best[:, 1:] == best[:, :-1],
        log_weights=best if codec.log_probs else None,
        log_tail=left if codec.log_probs else None,
    )


@torch.no_grad()
def likeliest_masses(
    scores: Float[Tensor, "tokens vocabulary"], *, number: int, temperature: float
) -> Float[Tensor, "tokens masses"]:
    """The largest `number` of softmax(scores / temperature), and the mass of all others, on the CPU."""
    best = (wide(scores) / temperature).softmax(-1).topk(number, dim=-1).values.double()
    return torch.cat([best, (1 - best.sum(-1, keepdim=True)).clamp_min(0)], -1).cpu()


def fitting_share(masses: Float[Tensor, "tokens masses"], *, entries: int) -> float:
    """The `share` with which samples of these tokens have `entries` entries on average.

    masses: of `likeliest_masses`, number: the codec's `largest` for this mean.
    """
    low, high = _LEAST_SHARE, 1.0
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        needed = (masses[:, :-1] / middle).clamp_max(1).sum(-1) + masses[:, -1] / middle
        mean = needed.ceil().clamp(2, masses.shape[-1] - 1).mean()
        low, high = (middle, high) if float(mean) > entries else (low, middle)
    return high


def _counts(masses: Float[Tensor, "tokens vocabulary"], codec: RankCodec) -> Int[Tensor, " tokens"]:
    """Entries of each token's sample."""
    if codec.share is None:
        return torch.full_like(masses[:, 0], codec.entries, dtype=torch.long)
    return (masses / codec.share).clamp_max(1).sum(-1).ceil().long().clamp(2, codec.largest)


def _systematic(
    masses: Float[Tensor, "tokens vocabulary"],
    counts: Int[Tensor, " tokens"],
    largest: int,
    generator: torch.Generator | None,
) -> tuple[Int[Tensor, "tokens entries"], Float[Tensor, "tokens entries"], Int[Tensor, " tokens"]]:
    """A sample of each row, the logs of its weights, and how many are certain: these first, what does not exist last,
    with the weight 0.

    The others lie one after the other on a line, each as long as its pi; points one apart, the first at random, choose.
    """
    best, ids = masses.topk(largest, dim=-1)
    rest = masses.scatter(-1, ids, 0.0).sum(-1, keepdim=True)
    left = rest + best.flip(-1).cumsum(-1).flip(-1)  # the mass of the i-th best and all behind it
    place = torch.arange(largest, device=masses.device)
    exists = place < counts[:, None]
    certain = (exists & (best * (counts[:, None] - place) >= left)).long().cumprod(-1).bool()
    number = certain.sum(-1, keepdim=True)
    others = counts[:, None] - number
    tau = left.gather(-1, number.clamp_max(largest - 1)) / others.clamp_min(1)
    line = masses.scatter(-1, ids, best.masked_fill(certain, 0.0)).cumsum(-1)
    line = line / line[:, -1:].clamp_min(torch.finfo(line.dtype).tiny) * others
    first = torch.rand(len(masses), 1, generator=generator, dtype=line.dtype, device=masses.device).clamp_max(1 - 1e-9)
    points = first + (place - number).clamp_min(0)
    drawn = torch.searchsorted(line, points, right=True).clamp_max(masses.shape[-1] - 1)
    weights = torch.where(certain, best, tau).masked_fill(~exists, 0.0)
    return torch.where(certain, ids, drawn), weights.log(), number[:, 0]
