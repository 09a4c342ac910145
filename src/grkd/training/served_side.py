"""A GRKDTrainer's teacher behind a server: the client, and its word on stored tokens."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from grkd.data.language import Group, Item
from grkd.endpoint.client import Endpoint
from grkd.endpoint.launch import budget_of, concurrency_of
from grkd.ranks import from_main, ranks
from grkd.served import ServedTeacher
from grkd.teacher.rank_cache import content_key
from grkd.teacher.stored_scores import TopK, with_tail
from grkd.teacher.turns import takes
from grkd.training.given_teachers import Given


def served_teacher(given: Given, tokenizer: Any, *, shared: bool, folder: Path) -> ServedTeacher:
    """The teacher, opened, with this process's part of the budget; its answers lie in `folder`.

    Raises UserError without the openai package, a key that the URL needs, or for a server that cannot be used.
    """
    assert given.url is not None
    assert given.served_model is not None
    endpoint = Endpoint(
        given.url,
        given.served_model,
        role="teacher_model",
        key_env=given.key_env,
        timeout_seconds=given.timeout_seconds,
        budget=budget_of(given.max_requests),
    )
    made = ServedTeacher(
        endpoint,
        tokenizer,
        folder=folder / f"process-{ranks().process_index}",
        concurrency=concurrency_of(given.concurrency),
        top_k=given.top_k,
        reads_text=not shared,
    )
    made.open()
    return made


class ServedScores:
    """The k likeliest entries of a served teacher per token of the groups that `ask` was given. (StoredScores.)

    only: column and value of the records that it is asked about; empty: all.
    Answers are lines of folder/tokens.jsonl as they come: another start asks for what is missing.
    """

    def __init__(self, teacher: ServedTeacher, folder: Path, *, only: Mapping[str, Any] | None = None) -> None:
        self.teacher, self.folder, self.only = teacher, folder, dict(only or {})
        self._rows: dict[str, TopK] = {}

    def ask(self, groups: Iterable[Group]) -> None:
        """Ask about the responses that are not known yet; the first process of a launch asks for all."""
        self.ask_items([item for group in groups if takes(self.only, group.columns or {}) for item in group.items])

    def ask_items(self, given: Iterable[Item]) -> None:
        """As `ask`, about responses in the teacher's own tokens."""
        items = {content_key(item): item for item in given if item.response_ids}
        missing = [replace(item, id=key) for key, item in items.items() if key not in self._rows]
        if missing:
            self._rows |= from_main(lambda: self._asked(missing), "ask the served teacher")

    def has(self, item: Item) -> bool:
        return content_key(item) in self._rows

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        rows = [self._rows[content_key(item)] for item in items]
        return {
            "teacher_top_ids": torch.cat([ids for ids, _ in rows]),
            "teacher_top_log_probs": torch.cat([log_probs for _, log_probs in rows]),
        }

    def scores(self, batch: Mapping[str, Any], *, vocabulary: int) -> Float[Tensor, "rows vocabulary"] | None:
        if "teacher_top_ids" not in batch:
            return None
        return with_tail(batch["teacher_top_ids"].long(), batch["teacher_top_log_probs"], vocabulary=vocabulary)

    def _asked(self, items: Sequence[Item]) -> dict[str, TopK]:
        return self.teacher.scored(items, keep={item.id for item in items}, store=self.folder / "tokens.jsonl")[1]
