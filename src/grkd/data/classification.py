"""Labelled examples for a classifier: what a set is, and the built-in one."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from grkd.data.splits import stratified_sample, stratified_split

Kind = Literal["features", "images", "text"]


@dataclass(frozen=True, kw_only=True)
class ClassificationData:
    """A training and a held-out part.

    kind: what an input is. features: a row of a float tensor. images: uint8 in 0..255 or float, [channels, height,
    width], as a tensor or a sequence that reads files when asked. text: a string.
    labels: positions in class_names. rankings: per example some classes, best first, if the records have them.
    teacher_labels: of the training part, where a teacher learns from others than the students. heldout_votes: how many
    people chose each class. outside_inputs: inputs of no class. class_groups: look-alikes, by class names.
    """

    kind: Kind
    train_inputs: Tensor | Sequence[Any]
    train_labels: Int[Tensor, " train"]
    heldout_inputs: Tensor | Sequence[Any]
    heldout_labels: Int[Tensor, " heldout"]
    class_names: list[str]
    train_ranking: list[list[int]] | None = None
    heldout_ranking: list[list[int]] | None = None
    teacher_labels: Int[Tensor, " train"] | None = None
    heldout_votes: Int[Tensor, "heldout classes"] | None = None
    outside_inputs: Sequence[Any] = ()
    class_groups: dict[str, list[str]] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input; () for text."""
        return () if self.kind == "text" else tuple(self.train_inputs[0].shape)

    def as_images(self) -> "ClassificationData":
        """Features of square grey images as images: [examples, side^2] -> [examples, 1, side, side].

        Raises ValueError for anything else.
        """
        side = round(self.input_shape[0] ** 0.5) if self.kind == "features" else 0
        if side == 0 or self.input_shape != (side * side,):
            raise ValueError(f"inputs of kind {self.kind!r} and shape {self.input_shape} are no square images")
        assert isinstance(self.train_inputs, Tensor)
        assert isinstance(self.heldout_inputs, Tensor)
        return replace(
            self,
            kind="images",
            train_inputs=self.train_inputs.reshape(-1, 1, side, side),
            heldout_inputs=self.heldout_inputs.reshape(-1, 1, side, side),
        )

    def limited(self, size: int, *, seed: int) -> "ClassificationData":
        """With `size` of the training examples, classes in their shares. Raises UserError if that is too few.

        The teacher's classes: recipes that share a teacher have the same examples, whatever labels their students see.
        """
        shares = self.train_labels if self.teacher_labels is None else self.teacher_labels
        kept = stratified_sample(shares, size, seed=seed)
        inputs, ranking = self.train_inputs, self.train_ranking
        return replace(
            self,
            train_inputs=inputs[kept] if isinstance(inputs, Tensor) else [inputs[i] for i in kept.tolist()],
            train_labels=self.train_labels[kept],
            train_ranking=None if ranking is None else [ranking[i] for i in kept.tolist()],
            teacher_labels=None if self.teacher_labels is None else self.teacher_labels[kept],
        )


def digits(*, heldout_fraction: float, seed: int) -> ClassificationData:
    """scikit-learn's 1,797 handwritten digits: features [examples, 64] in [0, 1], split with the seed.

    Source: UCI optdigits (test part), CC BY 4.0. Raises UserError for a fraction out of range.
    """
    values = _digits_file()
    inputs = torch.from_numpy(values[:, :-1]).float() / 16
    labels = torch.from_numpy(values[:, -1]).long()
    train, heldout = stratified_split(labels, heldout_fraction, seed=seed)
    return ClassificationData(
        kind="features",
        train_inputs=inputs[train],
        train_labels=labels[train],
        heldout_inputs=inputs[heldout],
        heldout_labels=labels[heldout],
        class_names=[str(digit) for digit in range(10)],
    )


def _digits_file() -> np.ndarray[Any, np.dtype[np.float64]]:
    """64 pixels and the digit per example, as `load_digits` reads them; importing scikit-learn takes seconds."""
    spec = find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    return np.hstack([pixels, targets[:, None]])
