"""The student before training, with which dpo compares: log-probabilities of responses, made once or step by step."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from grkd.data.language import Group
from grkd.models.adapters import trains_biases
from grkd.models.evaluation_mode import evaluation_mode
from grkd.training.groups_before import in_order, own_batches
from grkd.training.language_rows import LanguageRows, mean_log_probs_of
from grkd.training.rows import moved


class StudentBefore:
    """Mean log-probabilities of a batch's responses under the student before training, [groups, width], nats per token.

    adapters: the student is a base model with new adapters, which are switched off to have it back. Without adapters,
    or with some that train the base's biases, a frozen copy is kept, which takes the student's memory once more.
    """

    def __init__(self, student: nn.Module, *, pad_token_id: int, vocabulary: int, adapters: bool) -> None:
        self._rows = LanguageRows(pad_token_id=pad_token_id, vocabulary=vocabulary)
        self._adapters = adapters
        same = adapters and not trains_biases(student)
        self._model: Any = student if same else copy.deepcopy(student).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> Float[Tensor, "groups width"]:
        self._model.to(batch["input_ids"].device)
        off: AbstractContextManager[Any] = self._model.disable_adapter() if self._adapters else nullcontext()
        with evaluation_mode(self._model), off:
            return mean_log_probs_of(self._rows, self._model, batch)


def with_reference(
    rows: LanguageRows,
    student: Any,
    groups: Sequence[Group],
    *,
    batch_size: int,
    description: str,
    accelerator: Accelerator,
) -> list[Group]:
    """The groups with mean log-probabilities of their responses under a student; ranks share the work.

    student: the model as it is now, or a StudentBefore.
    """
    found: list[tuple[int, list[Group]]] = []
    # A sharded student's weights are gathered in each call, from all ranks.
    with evaluation_mode(student) if isinstance(student, nn.Module) else nullcontext():
        for first, part in own_batches(groups, batch_size, description, accelerator, evenly=True):
            batch = moved(rows.collate_all(part), accelerator.device)
            of = student if isinstance(student, StudentBefore) else partial(mean_log_probs_of, rows, student)
            with accelerator.autocast():
                means = of(batch)
            known = [
                replace(group, reference_log_probs=tuple(values[: len(group.items)]))
                for group, values in zip(part, means.tolist(), strict=True)
            ]
            found.append((first, known))
    return in_order(found, description)
