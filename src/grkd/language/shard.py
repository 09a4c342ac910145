"""A shard of prompts, as the samplers of the respond stage are given it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Prompts that one sampler answers.

    number: of the shard, which seeds its draws. progress: told of every answer, as responses and new tokens. counts:
    what is to be counted of the shard; samplers add to it. journal: where answers may be kept as they come, see
    grkd.answers.kept.
    """

    prompts: Sequence[dict[str, Any]]
    number: int
    progress: Callable[[int, int], None]
    counts: Counter[str]
    journal: Path

    def part(self, name: str, prompts: Sequence[dict[str, Any]] | None = None) -> "Shard":
        """With a journal of its own; prompts: those alone."""
        journal = self.journal.with_name(f"{self.journal.stem}-{name}.jsonl")
        return replace(self, journal=journal, prompts=self.prompts if prompts is None else prompts)


ShardSampler = Callable[[Shard], list[list[list[int]]]]  # token ids of the responses to each prompt
