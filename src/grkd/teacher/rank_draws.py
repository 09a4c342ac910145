"""The candidates of a token that a cache of ranks keeps: the teacher's top, or a sample without replacement."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd.errors import UserError
from grkd.groups import wide
from grkd.teacher.rank_codec import Candidates, RankCodec


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
    sample: drawn without replacement in proportion to p (the largest of log p_k + Gumbel noise); kappa is the first key
    that is left out. A candidate is in the sample with probability pi_k = 1 - exp(-exp(log p_k - kappa)) given kappa,
    and its weight is p_k / pi_k: for any f, the sum of weight * f(k) over the sample has the mean sum_k p_k f(k).
    generator: on the scores' device.
    Source: Kool et al., arXiv 1903.06059 (sampling, and the estimator of Horvitz and Thompson given kappa).
    """
    logs = (wide(scores) / temperature).log_softmax(-1)
    if codec.choose == "top":
        ids = logs.topk(codec.entries, dim=-1).indices
        weights = logs.gather(-1, ids)
    else:
        noise = torch.empty_like(logs).exponential_(generator=generator).clamp_min(torch.finfo(logs.dtype).tiny)
        keys, ids = (logs - noise.log()).topk(min(codec.entries + 1, codec.vocabulary), dim=-1)
        ids = ids[:, : codec.entries]
        chosen = logs.gather(-1, ids)
        # With every candidate in the sample none is left out: each is there for certain.
        kappa = keys[:, codec.entries :] if keys.shape[-1] > codec.entries else torch.full_like(keys[:, :1], -torch.inf)
        weights = chosen - torch.log(-torch.expm1(-(chosen - kappa).exp()))
    # Best first; equal scores in the order of their ids, which says nothing, and a bit says that they are equal.
    own = scores.gather(-1, ids)
    by_id = ids.argsort(-1)
    order = by_id.gather(-1, own.gather(-1, by_id).sort(dim=-1, descending=True, stable=True).indices)
    own = own.gather(-1, order)
    ids, weights, tail = ids.gather(-1, order), weights.gather(-1, order), None
    if codec.choose == "top":
        tail = logs.scatter(-1, ids, -torch.inf).logsumexp(-1).clamp_min(-100.0)
    return Candidates(
        ids=ids,
        tied=own[:, 1:] == own[:, :-1],
        log_weights=weights if codec.log_probs else None,
        log_tail=tail if codec.log_probs else None,
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
