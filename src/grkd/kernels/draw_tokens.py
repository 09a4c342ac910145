"""Next tokens drawn from logits; the noise of a token depends on its row's seed and its place in the response alone."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grkd.draws import philox
from grkd.errors import UserError
from grkd.kernels._available import use_triton
from grkd.kernels._options import Implementation


@torch.no_grad()
def draw_tokens(
    logits: Float[Tensor, "rows head"],
    seeds: Int[Tensor, " rows"],
    places: Int[Tensor, " rows"],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    softcap: float | None = None,
    vocabulary: int | None = None,
    implementation: Implementation = "auto",
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """One token per row and its log-probability in nats under the distribution that it was drawn from.

    token = argmax_v (cap(x_v) / temperature + g_v) over the kept v, with g_v = -log(-log u_v) (Gumbel) and u_v uniform.
    p = softmax(cap(x) / temperature) over the first `vocabulary` entries, then the top_k most likely (0: all), then
    the fewest most likely whose mass reaches top_p. Entries tied with the last one kept are kept too.
    u is a function of (seed, place, v): the same row draws the same token in every batch, on every rank and device.
    seeds: int64, one per row. places: number of the token in its response, below 2^31.
    temperature 0: the most likely token (the lowest id of equals); top_p and top_k have no part, and the
    log-probability is that at temperature 1. cap(x) = softcap * tanh(x / softcap).
    Softmax and noise are in float32. On CUDA without host synchronisation: it can be captured in a CUDA graph.
    Raises UserError for options out of range, ValueError for a vocabulary that the logits do not have.
    Source: Maddison et al., arXiv 1411.0030 (Gumbel); Salmon et al., SC 2011 (Philox 4x32-10).
    """
    check_options(temperature=temperature, top_p=top_p, top_k=top_k)
    if softcap is not None and not softcap > 0:
        raise UserError(f"softcap must be above 0, got {softcap}")
    cut = logits.shape[-1] if vocabulary is None else vocabulary
    if not 1 <= cut <= logits.shape[-1]:
        raise ValueError(f"{logits.shape[-1]} logits cannot be cut to a vocabulary of {cut}")
    top_k = 0 if top_k >= cut else top_k
    if use_triton(logits, implementation):
        from grkd.kernels import _draw_triton

        return _draw_triton.run(
            logits[:, :cut], seeds, places, temperature=temperature, top_p=top_p, top_k=top_k, softcap=softcap
        )
    scores = logits[:, :cut].float()
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if temperature == 0:
        tokens = scores.argmax(-1)
    else:
        scores = kept_scores(scores / temperature, top_p=top_p, top_k=top_k)
        tokens = (scores + gumbel_noise(seeds, places, cut)).argmax(-1)
    return tokens, scores.gather(-1, tokens[:, None]).squeeze(-1) - scores.logsumexp(-1)


def check_options(*, temperature: float, top_p: float, top_k: int = 0) -> None:
    """Raises UserError for sampling options out of range."""
    if not temperature >= 0:
        raise UserError(f"temperature must be 0 (greedy) or more, got {temperature}")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, got {top_p}")
    if top_k < 0:
        raise UserError(f"top_k must be 0 (all tokens) or more, got {top_k}")


def kept_scores(
    scores: Float[Tensor, "rows vocabulary"], *, top_p: float, top_k: int
) -> Float[Tensor, "rows vocabulary"]:
    """The scores, -inf where neither top_k nor the nucleus of mass top_p keeps the entry; ties are kept."""
    if top_k:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1:
        ordered = scores.sort(-1, descending=True).values
        mass = ordered.softmax(-1)
        kept = (mass.cumsum(-1) - mass < top_p).sum(-1, keepdim=True).clamp_min(1)
        scores = scores.masked_fill(scores < ordered.gather(-1, kept - 1), -torch.inf)
    return scores


def gumbel_noise(
    seeds: Int[Tensor, " rows"], places: Int[Tensor, " rows"], vocabulary: int
) -> Float[Tensor, "rows vocabulary"]:
    """-log(-log u) in float32 with u_v = u(seed, place, v).

    Entry v takes word v % 4 of Philox at counter (v // 4, place, 0, 0) with the seed as key. -log u is computed as
    -log(1 - w) with w a multiple of 2^-32, so that large noise, which decides, is not rounded.
    """
    counters = torch.arange(-(-vocabulary // 4), device=seeds.device)
    zero = counters.new_zeros(())
    words = torch.stack(philox([counters, places.long()[:, None], zero, zero], seeds[:, None]), -1)
    words = words.flatten(1)[:, :vocabulary]
    share = ((words >> 1).float() + 0.5) * 2.0**-31
    small = share * (1 + share * (0.5 + share * (1 / 3)))
    waiting = torch.where(share < 2.0**-8, small, -torch.log(1 - share.clamp_max(1 - 2.0**-24)))
    return -waiting.log()
