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
from grkd.language.crossed import own_tokens
from grkd.language.record_columns import RecordColumns
from grkd.language.self_teacher import ShownPrompts
from grkd.language.served import served_teacher
from grkd.models.load import vocabulary_size
from grkd.recipe import SelfTeacher
from grkd.teacher.cached_teacher import CachedTeacher
from grkd.teacher.in_own_words import item_in_own_words
from grkd.teacher.local import LocalTeacher
from grkd.teacher.signal import HiddenCache, TeacherHead
from grkd.teacher.stored_scores import TopKScores
from grkd.teacher.turns import takes

Record = dict[str, Any]


def local_teacher(context: LanguageContext, teacher: PreTrainedModel) -> LocalTeacher:
    """What rankers ask of a teacher in memory, in its own vocabulary."""
    tokenizer = context.models.tokenizer_of_teacher
    check_head_size(teacher, tokenizer, role="teacher")
    return LocalTeacher(
        teacher,
        tokenizer,
        vocabulary=vocabulary_size(tokenizer),
        batch_size=context.recipe.score.batch_size,
        reads_text=context.models.teacher_tokenizer is not None,
    )


class TeacherScorer:
    """Scores responses, given as records of the respond stage, under the context's one teacher.

    label: of one of several. data_columns: of the data files, by which a teacher may be asked about some records alone.
    cached: splits of which hidden states and head, or the top k of a server, are stored in `work`.
    """

    def __init__(
        self,
        context: LanguageContext,
        work: Path,
        label: str | None,
        *,
        cached: Sequence[str],
        data_columns: RecordColumns,
    ) -> None:
        self.context, self.recipe, self.models = context, context.recipe, context.models
        self.work = work if label is None else work / "teachers" / label
        self.journal = "score" if label is None else f"score-{label}"  # of a served teacher, in the run
        self.cached, self.data_columns = cached, data_columns
        self.only: Mapping[str, Any] = getattr(context.recipe.teacher, "only", {})
        self._head_saved = False

    @cached_property
    def teacher(self) -> Any:
        """A LocalTeacher, a ServedTeacher, opened, or a CachedTeacher."""
        if self.models.cached is not None:
            return CachedTeacher(self.models.cached, self.models.tokenizer)
        if self.models.served is not None:
            return served_teacher(self.context, self.journal)
        return local_teacher(self.context, self.models.teacher())

    def open(self) -> None:
        """Load the teacher, and what it shows of tokens so far."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.signal, own = self._signal(), self.models.teacher_tokenizer
        # Of another vocabulary: its tokens of the responses, by which the two tokenisations meet.
        self.own = None if own is None or self.signal is None else own_tokens(self.work)
        config = None if own is None else getattr(getattr(self.teacher, "model", None), "generation_config", None)
        self.stop_ids = [] if own is None else stop_token_ids(own, config)

    def means(self, number: int, records: Sequence[Record]) -> list[float | None]:
        """Mean log-probability of each response, nats per token; None for records that it is not asked about.

        What it shows of tokens is stored as shard `number`. Raises UserError for one that is not finite.
        """
        asked = [record for record in records if takes(self.only, self.data_columns[record["group"]].columns)]
        items = [self._item(record) for record in asked]
        keep = {record["id"] for record in asked if record["split"] in self.cached}
        journal = self.work / f"asked-{number:05d}.jsonl"  # of a served teacher, until the shard is written
        if self.models.served is None and self.signal is not None and items:
            self._save_head(items)
        options = {} if self.models.served is None else {"store": journal}
        means, shown = self.teacher.scored(items, keep=keep, **options)
        for record, mean in zip(asked, means, strict=True):
            _check_finite(mean, record)
        stored: list[tuple[Any, Mapping[str, Any]]] = [] if self.signal is None else [(self.signal, shown)]
        if self.own is not None:
            own = {item.id: torch.tensor(item.response_ids)[:, None] for item in items if item.id in keep}
            stored.append((self.own, own))
        for shards, rows in stored:
            # A kill may have come between the two files of a chunk.
            if new := {item_id: each for item_id, each in rows.items() if item_id not in shards}:
                shards.write_shard(new, number=number)
        journal.unlink(missing_ok=True)
        found = {record["id"]: mean for record, mean in zip(asked, means, strict=True)}
        return [found.get(record["id"]) for record in records]

    @cached_property
    def shown(self) -> ShownPrompts:
        """Prompts as a self-teacher reads them."""
        return ShownPrompts(self.context)

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
        if self._head_saved or not self.teacher.probe_head(items, required=True):
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
            self.models.tokenizer_of_teacher,
            restored(record, completion=record["response"]),
            record["response"],
            stop_ids=self.stop_ids,
            finished=record["finished"],
            system=self.recipe.data.system,
            context=self.teacher.context,
        )


def _check_finite(mean: float, record: Record) -> None:
    """Raises UserError, with the response and its prompt, for NaN or infinity."""
    if not math.isfinite(mean):
        what, prompt = "the teacher's mean log-probability", " ".join(record["prompt"].split())
        cure = "try teacher.dtype: float32, or remove the prompt"
        raise UserError(f"{what} of the response {record['id']} is {mean} (prompt: {prompt[:60]!r}); {cure}")
