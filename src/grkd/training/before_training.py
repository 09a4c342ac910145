"""What GRKDTrainer makes before training: responses of prompts that have none, and the reference of dpo."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from grkd.data.language import Group
from grkd.errors import UserError
from grkd.models.adapters import trains_biases
from grkd.models.evaluation_mode import evaluation_mode
from grkd.objectives import Objective, load
from grkd.training.fresh_groups import Reference, orders
from grkd.training.grkd_config import GRKDConfig
from grkd.training.groups_before import NO_RESPONSE, groups_of_model, in_order, own_batches
from grkd.training.language_rows import LanguageRows, mean_log_probs_of
from grkd.training.record_groups import RecordEncoder
from grkd.training.rows import moved


class Before:
    """Groups made ready by the student before training.

    over: training has begun, so the student is another one now. adapters: the student's base model is the one before.
    """

    def __init__(
        self,
        rows: LanguageRows,
        student: Any,
        objective: Objective,
        args: GRKDConfig,
        *,
        encode: RecordEncoder,
        adapters: bool,
    ) -> None:
        self.rows, self.student, self.objective, self.args = rows, student, objective, args
        self.adapters, self.over = adapters, False
        self._numbers = {"pad_token_id": encode.pad_token_id, "vocabulary": rows.vocabulary}
        self._reference: StudentBefore | None = None
        self.scored: LanguageRows | None = None  # of a method whose rankers are asked in evaluation alone

    def reference_of_batches(self) -> Reference | None:
        """For groups that are sampled in training: without adapters this copies the student."""
        if self.objective.needs_reference and self._reference is None:
            self._reference = StudentBefore(self.student, **self._numbers, adapters=self.adapters)
        return self._reference

    def training_set(self, groups: Any, accelerator: Accelerator) -> Any:
        """The groups that are trained on, with what stored ones need."""
        if groups is None:
            return None
        share = self.rows.fresh_share(self.objective)
        if 0 < share < 1:  # some prompts keep their responses
            groups = self._answered(groups, "train_dataset", accelerator)
        if self.rows.fresh is None:
            groups = self._referenced(groups, "train_dataset", accelerator)
        return groups

    def evaluation_set(self, groups: Any, where: str, trainer: Any) -> Any:
        """The groups of an evaluation (or of several by name), none of which is a prompt alone.

        Prompts without responses, or without an order of them, are answered by the student as it is when this is
        asked: for the constructor's sets the one before training. What is ready stays as it is.
        """
        if groups is None or isinstance(groups, str):
            return groups
        if isinstance(groups, dict):
            return {name: self.evaluation_set(own, f"{where}[{name!r}]", trainer) for name, own in groups.items()}
        found = self._answered(groups, where, trainer.accelerator, model=trainer.student_now)
        return self._referenced(found, where, trainer.accelerator)

    def scores_now(self, groups: Sequence[Group], trainer: Any) -> dict[str, float]:
        """Mean score by every ranker of new responses of the student as it is."""
        return self._sampled(groups, "score", trainer.accelerator, trainer.student_now(), rows=self.scored)[1]

    def _answered(
        self, groups: Sequence[Group], where: str, accelerator: Accelerator, *, model: Callable[[], Any] | None = None
    ) -> list[Group]:
        asks = [at for at, group in enumerate(groups) if self.wants_responses(group)]
        if not asks:
            return list(groups)
        student = self.student if model is None else model()
        made, _ = self._sampled([groups[at] for at in asks], f"{where}: responses", accelerator, student)
        return _with(groups, asks, made)

    def wants_responses(self, group: Group) -> bool:
        """Whether the student answers this prompt before it is learnt or measured, and rankers order the answers."""
        if group.sources == (NO_RESPONSE,):
            return True
        fresh = self.rows.fresh
        ordered = fresh is not None and orders(self.objective)
        return ordered and not group.has_pair and "student" not in group.sources

    def _sampled(
        self,
        groups: Sequence[Group],
        description: str,
        accelerator: Accelerator,
        model: Any,
        *,
        rows: LanguageRows | None = None,
    ) -> tuple[list[Group], dict[str, float]]:
        return groups_of_model(
            self.rows if rows is None else rows,
            model,
            groups,
            self.objective if rows is None else load("grpo"),  # which has the student's own responses ranked
            seed=self.args.seed,
            batch_size=self.args.eval_batch_size,
            description=description,
            accelerator=accelerator,
        )

    def _referenced(self, groups: Sequence[Group], where: str, accelerator: Accelerator) -> list[Group]:
        missing = [at for at, group in enumerate(groups) if group.reference_log_probs is None]
        if not (self.objective.needs_reference and missing):
            return list(groups)
        changed = not self.adapters or trains_biases(self.student)
        if self.over and self._reference is None and changed:
            raise UserError(
                f"{where}: {self.args.method} compares with the student before training, which is gone; "
                "give the set as eval_dataset when the trainer is made"
            )
        known = with_reference(
            self.rows,
            self.student if not self.over else self.reference_of_batches(),
            [groups[at] for at in missing],
            batch_size=self.args.eval_batch_size,
            description=f"{where}: reference (student before training)",
            accelerator=accelerator,
        )
        return _with(groups, missing, known)


def _with(groups: Sequence[Group], places: Sequence[int], made: Sequence[Group]) -> list[Group]:
    """The groups, with those at these places replaced."""
    new = dict(zip(places, made, strict=True))
    return [new.get(at, group) for at, group in enumerate(groups)]


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
