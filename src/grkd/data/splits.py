"""Which examples go where: splits and samples that keep the classes' shares."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from grkd.errors import UserError


def stratified_split(
    labels: Int[Tensor, " examples"], heldout_fraction: float, *, seed: int
) -> tuple[Int[Tensor, " train"], Int[Tensor, " heldout"]]:
    """Indices of the training and the held-out part, both rising.

    round(heldout_fraction * examples) are held out; each class gives its share of them (within one example) and keeps
    at least one for training. Raises UserError for a fraction outside (0, 1) and where nothing would be held out.
    """
    if not 0 < heldout_fraction < 1:
        raise UserError(f"heldout_fraction must be between 0 and 1, got {heldout_fraction}")
    counts = _counts(labels)
    if counts.max(initial=0) < 2:
        raise UserError(f"none of {len(labels)} examples can be held out: no class has a second one; add examples")
    total = min(round(heldout_fraction * len(labels)), int(np.maximum(counts - 1, 0).sum()))
    if total < 1:
        raise UserError(
            f"heldout_fraction {heldout_fraction} of {len(labels)} examples holds out nothing; add examples or raise it"
        )
    heldout = _draw(labels, _shares(counts, total, counts * 0, np.maximum(counts - 1, 0)), seed)
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[heldout] = False
    return kept.nonzero().squeeze(-1), heldout


def stratified_sample(labels: Int[Tensor, " examples"], size: int, *, seed: int) -> Int[Tensor, " sample"]:
    """Rising indices of `size` examples in which each class has its share, and at least one.

    All examples where there are no more than `size`. Raises UserError if size is below the number of classes.
    """
    if size >= len(labels):
        return torch.arange(len(labels))
    counts = _counts(labels)
    present = np.minimum(counts, 1)
    if size < present.sum():
        raise UserError(f"limit {size} is below the {present.sum()} classes; each needs at least one training example")
    return _draw(labels, _shares(counts, size, present, counts), seed)


def _counts(labels: Tensor) -> np.ndarray:
    return np.bincount(labels.numpy())


def _shares(counts: np.ndarray, total: int, lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """How many each class gives of `total`: in proportion to counts, by largest remainder, within the bounds."""
    quotas = counts * total / counts.sum()
    shares = np.clip(np.floor(quotas).astype(int), lowest, highest)
    while shares.sum() < total:
        shares[np.where(shares < highest, quotas - shares, -np.inf).argmax()] += 1
    while shares.sum() > total:
        shares[np.where(shares > lowest, quotas - shares, np.inf).argmin()] -= 1
    return shares


def _draw(labels: Tensor, shares: np.ndarray, seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    values = labels.numpy()
    drawn = [random.permutation(np.flatnonzero(values == label))[:share] for label, share in enumerate(shares)]
    return torch.from_numpy(np.sort(np.concatenate(drawn)))
