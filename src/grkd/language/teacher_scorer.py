"""One teacher in the score stage: its log-probability of responses, and what it shows of their tokens, stored."""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from grkd.data.chat import stop_token_ids
from grkd.data.language import Item, check_head_size
from grkd.data.prompts import restored
from grkd.errors import UserError
from grkd.language.context import LanguageContext
from grkd.language.record_columns import GroupData
from grkd.language.self_teacher import ShownPrompts
from grkd.language.served import served_teacher
from grkd.models.load import vocabulary_size
from grkd.recipe import SelfTeacher
from grkd.teacher.cached_teacher import CachedTeacher
from grkd.teacher.in_own_words import item_in_own_words
from grkd.teacher.local import LocalTeacher
from grkd.teacher.row_shards import RowShards
from grkd.teacher.signal import HiddenCache, TeacherHead
from grkd.teacher.stored_scores import TopKScores

Record = dict[str, Any]


def local_teacher(context: LanguageContext, teacher: PreTrainedModel) -> LocalTeacher:
    """What rankers ask of a teacher in memory, in its own vocabulary."""
    own = context.models.teacher_tokenizer
    tokenizer = context.models.tokenizer if own is None else own
    check_head_size(teacher, tokenizer, role="teacher")
    return LocalTeacher(
        teacher,
        tokenizer,
        vocabulary=context.models.numbers["vocabulary"] if own is None else vocabulary_size(own),
        batch_size=context.recipe.score.batch_size,
        reads_text=own is not None,
    )


class TeacherScorer:
    """Scores responses, given as records of the respond stage, under the context's one teacher.

    work: where hidden states and head, or the top k of a server, are stored. cached: splits of which they are.
    name: of a served teacher's journal in the run. only: column and value of the records that it is asked about, read
    from `data_columns`, the columns of the data files by group; empty: all.
    """

    def __init__(
        self,
        context: LanguageContext,
        work: Path,
        *,
        cached: Sequence[str],
        name: str = "score",
        only: Mapping[str, Any] | None = None,
        data_columns: Mapping[str, GroupData] | None = None,
    ) -> None:
        self.context, self.recipe, self.models = context, context.recipe, context.models
        self.work, self.cached, self.name = work, cached, name
        self.only, self.data_columns = only or {}, data_columns or {}
        own = context.models.teacher_tokenizer
        self.tokenizer = context.models.tokenizer if own is None else own
        self._head_saved = False

    @cached_property
    def teacher(self) -> Any:
        """A LocalTeacher, a ServedTeacher, opened, or a CachedTeacher."""
        if self.models.cached is not None:
            return CachedTeacher(self.models.cached, self.models.tokenizer)
        if self.models.served is not None:
            return served_teacher(self.context, self.name)
        return local_teacher(self.context, self.models.teacher())

    def open(self) -> None:
        """Load the teacher, and what it shows of tokens so far."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.signal = self._signal()
        # Of another vocabulary: its tokens of the responses, by which the two tokenisations meet.
        foreign = self.signal is not None and self.models.teacher_tokenizer is not None
        cure = "delete it and run the score stage again"
        self.own = RowShards(self.work, name="own", dtype=torch.int32, cure=cure) if foreign else None
        own = self.models.teacher_tokenizer
        config = getattr(getattr(self.teacher, "model", None), "generation_config", None) if own is not None else None
        self.stop_ids = [] if own is None else stop_token_ids(own, config)

    def means(self, number: int, records: Sequence[Record]) -> list[float | None]:
        """Mean log-probability of each response, nats per token; None for records that it is not asked about.

        What it shows of tokens is stored as shard `number`. Raises UserError for one that is not finite.
        """
        asked = [record for record in records if self._is_asked(record)]
        items = [self._item(record) for record in asked]
        keep = {record["id"] for record in asked if record["split"] in self.cached}
        if self.models.served is not None:
            large = self.work / f"asked-{number:05d}.jsonl"  # until the shard is written
            means, shown = self.teacher.scored(items, keep=keep, store=large)
        else:
            large = None
            if self.signal is not None and not self._head_saved and items:
                self._save_head(items)
            means, shown = self.teacher.scored(items, keep=keep)
        for record, mean in zip(asked, means, strict=True):
            finite(mean, "the teacher's mean log-probability", record)
        if self.signal is not None:
            # A kill may have come between the two files of a chunk.
            new = {item_id: rows for item_id, rows in shown.items() if item_id not in self.signal}
            if new:
                self.signal.write_shard(new, number=number)
        if self.own is not None:
            rows = {item.id: torch.tensor(item.response_ids)[:, None] for item in items if item.id in keep}
            rows = {item_id: each for item_id, each in rows.items() if item_id not in self.own}
            if rows:
                self.own.write_shard(rows, number=number)
        if large is not None:
            large.unlink(missing_ok=True)
        found = {record["id"]: mean for record, mean in zip(asked, means, strict=True)}
        return [found.get(record["id"]) for record in records]

    @cached_property
    def shown(self) -> ShownPrompts:
        """Prompts as a self-teacher reads them."""
        return ShownPrompts(self.context)

    def _is_asked(self, record: Record) -> bool:
        if not self.only:
            return True
        columns = self.data_columns[record["group"]].columns if record["group"] in self.data_columns else {}
        return all(columns.get(name) == value for name, value in self.only.items())

    def _signal(self) -> HiddenCache | TopKScores | None:
        """What the teacher shows of tokens is stored here; None if no method or measure asks for it."""
        if not self.cached or self.models.cached is not None:
            return None
        if self.models.served is not None:
            return TopKScores(self.work / "top_k")
        in_16_bits = self.teacher.model.dtype == torch.bfloat16
        return HiddenCache(self.work / "hidden", dtype="bfloat16" if in_16_bits else "float32")

    def _save_head(self, items: Sequence[Item]) -> None:
        """Check that hidden states give the logits back, and store the head that does it."""
        head = self.work / "head.safetensors"
        if not self.teacher.probe_head(items, required=True):
            return
        if not head.exists():  # every rank writes the same file, whole
            TeacherHead.of(self.teacher.model, vocabulary=self.teacher.vocabulary).save(head)
        self._head_saved = True

    def _item(self, record: Record) -> Item:
        """Prompt and response in the teacher's tokens: the very tokens that the student trains on, where they share."""
        if isinstance(self.recipe.teacher, SelfTeacher):
            prompt_ids = self.shown(record, record["group"], response_tokens=len(record["response_ids"]))
            return Item(id=record["id"], prompt_ids=prompt_ids, response_ids=record["response_ids"])
        if self.models.teacher_tokenizer is None:
            return Item(id=record["id"], prompt_ids=record["prompt_ids"], response_ids=record["response_ids"])
        return item_in_own_words(
            self.tokenizer,
            restored(record, completion=record["response"]),
            record["response"],
            stop_ids=self.stop_ids,
            finished=record["finished"],
            system=self.recipe.data.system,
            context=self.teacher.context,
        )


def finite(value: float, what: str, record: Record) -> float:
    """The value; raises UserError, with the response and its prompt, where it is NaN or infinite."""
    if math.isfinite(value):
        return value
    prompt = " ".join(record["prompt"].split())
    cure = "try teacher.dtype: float32, or take the prompt out"
    raise UserError(f"{what} of the response {record['id']} is {value} (prompt: {prompt[:60]!r}); {cure}")
