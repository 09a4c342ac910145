"""Rows of tokens beside a live teacher that reads another prompt than the student, such as one with the solution."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from grkd.data.language import Group, collate
from grkd.training.language_rows import LanguageRows
from grkd.training.token_rows import token_logits

_SHOWN = "shown/"


class ShownRows(LanguageRows):
    """LanguageRows whose live teacher scores each response behind a prompt of its own.

    shown: token ids of a group's prompt as the teacher reads it. Batches are padded, and logits are made of both sides.
    """

    def __init__(self, *, shown: Callable[[Group], list[int]], teacher: Any, **options: Any) -> None:
        super().__init__(teacher=teacher, **options)
        self.shown = shown

    def teacher_head(self) -> None:
        return None

    def collate_all(self, groups: Sequence[Group]) -> dict[str, Any]:
        prompts = [self.shown(group) for group in groups]
        items = [
            replace(item, prompt_ids=ids) for group, ids in zip(groups, prompts, strict=True) for item in group.items
        ]
        of_teacher = collate(items, pad_token_id=self.pad_token_id)
        return super().collate_all(groups) | {_SHOWN + name: each for name, each in of_teacher.items()}

    @torch.no_grad()
    def _teacher_scores(self, batch: dict[str, Any]) -> Tensor | None:
        own = {name.removeprefix(_SHOWN): each for name, each in batch.items() if name.startswith(_SHOWN)}
        return token_logits(self.teacher, own, self.vocabulary)
