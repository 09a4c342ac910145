"""Groups of responses: of several candidates the most different ones, without duplicates."""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

from rapidfuzz.distance import Levenshtein


def choose_diverse(
    texts: Sequence[str],
    n: int,
    *,
    sources: Sequence[str] | None = None,
    quotas: Mapping[str, int] | None = None,
) -> list[int]:
    """Indices of at most n texts that are all different and far from each other, in the order of `texts`.

    Greedy: the first text starts; then, n times, the one whose nearest chosen text is farthest,
        argmax_i min_{j chosen} d(texts[i], texts[j]),    d = Levenshtein(a, b) / max(len(a), len(b)) in [0, 1],
    the earlier one where two are equally far. Texts are compared in characters, stripped of outer white space; of equal
    ones only the first is a candidate, so fewer than n come back where fewer are different.
    quotas: at most so many of each source (`sources`: one a text); a source that is not in it has none. The choice runs
    over all texts at once, and leaves a source out as soon as its quota is used up.
    Nothing is drawn: the same texts give the same choice.
    Raises ValueError for n below 1, quotas without sources, or sources and texts of different number.
    Source: arXiv 2502.14272 (PAD), which chooses 4 of 5 responses by edit distance so; quotas are ours.
    """
    if n < 1:
        raise ValueError(f"n must be 1 or more, got {n}")
    if (sources is None) != (quotas is None):
        raise ValueError("sources and quotas belong together; give both or none")
    if sources is not None and len(sources) != len(texts):
        raise ValueError(f"{len(texts)} texts but {len(sources)} sources")
    names = [""] * len(texts) if sources is None else list(sources)
    left = Counter({"": n} if quotas is None else quotas)
    stripped = [text.strip() for text in texts]
    # Distance of each text to the nearest chosen one; 1 is the largest there is, so the first in line starts.
    nearest = dict.fromkeys(first_of_equal(texts), 1.0)
    chosen: list[int] = []
    while len(chosen) < n:
        open_to_choice = [index for index in nearest if left[names[index]] > 0]
        if not open_to_choice:
            break
        best = max(open_to_choice, key=lambda index: (nearest[index], -index))
        chosen.append(best)
        left[names[best]] -= 1
        del nearest[best]
        for index in nearest:
            distance = Levenshtein.normalized_distance(stripped[index], stripped[best])
            nearest[index] = min(nearest[index], distance)
    return sorted(chosen)


def first_of_equal(texts: Sequence[str]) -> list[int]:
    """Indices of the texts that are not, but for outer white space, the same as an earlier one."""
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        first.setdefault(text.strip(), index)
    return list(first.values())


def shared_out(total: int, quotas: Mapping[str, int]) -> dict[str, int]:
    """`total` candidates divided among sources in proportion to their quotas, each at least its quota.

    Shares are rounded down and what is left goes, one each, to the largest remainders (the earlier source of equal
    ones). Raises ValueError if total is below the sum of the quotas, or where that sum is 0.
    """
    wanted = sum(quotas.values())
    if not 0 < wanted <= total:
        raise ValueError(f"{total} candidates cannot serve quotas of {wanted}")
    exact = {source: Fraction(total * quota, wanted) for source, quota in quotas.items()}
    shares = {source: int(share) for source, share in exact.items()}
    by_remainder = sorted(exact, key=lambda source: shares[source] - exact[source])
    for source in by_remainder[: total - sum(shares.values())]:
        shares[source] += 1
    return shares
