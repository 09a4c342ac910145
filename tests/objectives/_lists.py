"""Lists with ties for the tests of ranking methods, and sentence-transformers' losses on the same tensors."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from grkd.objectives import Batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sentence_transformers.cross_encoder import losses as _peers


def a_list(*, candidates: int = 7, seed: int = 0, ties: bool = True) -> Batch:
    """One list: the peer divides by the pairs of a whole batch."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(1, candidates, generator=generator) for _ in range(2))
    return Batch(student=2 * student, teacher=(2 * teacher).round() if ties else teacher)


def peer_loss(name: str, student: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """A loss of sentence-transformers for cross-encoders, on scores [1, candidates] in place of a model's."""

    class Model(nn.Module):
        num_labels, device = 1, torch.device("cpu")

        def preprocess(self, pairs: Any, **_: Any) -> Any:
            return {"pairs": pairs}

        def forward(self, features: Any) -> dict[str, Tensor]:
            places = torch.tensor([int(document) for _, document in features["pairs"]])
            return {"scores": student[0].gather(0, places)}

    documents = [str(number) for number in range(student.shape[1])]
    with torch.random.fork_rng():
        return getattr(_peers, name)(Model(), **options)([["query"], [documents]], [labels[0]])
