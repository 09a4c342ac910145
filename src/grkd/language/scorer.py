"""The teacher's log-probability of responses, their order by the rankers, and hidden states where they are kept."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from grkd.data.chat import stop_token_ids
from grkd.data.language import Item
from grkd.data.prompts import restored
from grkd.errors import UserError
from grkd.language.context import LanguageContext
from grkd.language.record_columns import GroupData
from grkd.language.self_teacher import ShownPrompts
from grkd.language.served import served_teacher
from grkd.models.load import vocabulary_size
from grkd.rankers import Panel, Ranked, Resources, panel
from grkd.recipe import Score, SelfTeacher, ServedModel, Teacher, rankers_of, shows_tokens
from grkd.teacher.cached_teacher import CachedTeacher
from grkd.teacher.in_own_words import item_in_own_words
from grkd.teacher.local import LocalTeacher
from grkd.teacher.signal import HiddenCache, TeacherHead
from grkd.teacher.stored_scores import TopKScores

Record = dict[str, Any]


def panel_of(settings: Score, teacher: Teacher | None = None) -> Panel:
    """The recipe's rankers: score.rankers, or the one that score.reward names, or the teacher's own word.

    teacher: a judge without a URL is this one, and so is whoever orders the responses if it gives no log-probabilities.

    Raises UserError for an unknown ranker or option.
    """
    if settings.rankers is not None:
        entries = settings.rankers if teacher is None else rankers_of(settings.rankers, teacher)
        return panel(entries, combine=settings.combine or "weights")
    if settings.reward is None and isinstance(teacher, ServedModel) and not teacher.log_probs:
        return panel(rankers_of(["judge"], teacher))
    ratio = {} if settings.calibration is None else {"ratio": settings.calibration}
    return panel([{"name": settings.reward or "log_prob", **ratio}])


def local_teacher(context: LanguageContext, teacher: PreTrainedModel) -> LocalTeacher:
    """What rankers ask of a teacher in memory, in its own vocabulary."""
    own = context.models.teacher_tokenizer
    return LocalTeacher(
        teacher,
        context.models.tokenizer if own is None else own,
        vocabulary=context.models.numbers["vocabulary"] if own is None else vocabulary_size(own),
        batch_size=context.recipe.score.batch_size,
        reads_text=own is not None,
    )


class Scorer:
    """Scores chunks of whole groups, given as records of the respond stage.

    panel: the rankers. data_columns: what the data files hold beside the prompts, by group. cached: splits whose hidden
    states are stored in work/hidden, with the teacher's head beside it.
    """

    def __init__(
        self,
        context: LanguageContext,
        work: Path,
        panel: Panel,
        *,
        cached: Sequence[str],
        data_columns: Mapping[str, GroupData] | None = None,
    ) -> None:
        self.context, self.recipe, self.models = context, context.recipe, context.models
        self.work, self.cached = work, cached
        self.panel, self.data_columns = panel, data_columns or {}
        own = context.models.teacher_tokenizer
        self.tokenizer = context.models.tokenizer if own is None else own
        self._head_saved = False

    def open(self, answers: Path) -> None:
        """Open the rankers, those that need no model first, and load the teacher.

        answers: folder for the answers of judges.
        """
        resources = Resources(
            teacher=(lambda: self.teacher) if shows_tokens(self.recipe) else None,
            device=self.models.device,
            folder=answers,
            batch_size=self.recipe.score.batch_size,
        )
        self.panel.open(resources)
        self.signal = self._signal()
        own = self.models.teacher_tokenizer
        config = getattr(getattr(self.teacher, "model", None), "generation_config", None) if own is not None else None
        self.stop_ids = [] if own is None else stop_token_ids(own, config)

    @cached_property
    def teacher(self) -> Any:
        """A LocalTeacher, a ServedTeacher, opened, or a CachedTeacher."""
        if self.models.cached is not None:
            return CachedTeacher(self.models.cached, self.models.tokenizer)
        if self.models.served is not None:
            return served_teacher(self.context, "score")
        return local_teacher(self.context, self.models.teacher())

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

    def __call__(self, number: int, groups: Sequence[Sequence[Record]]) -> list[Record]:
        """One record per response, of score.SCORES, in order; `number` names the chunk's hidden states."""
        records = [record for group in groups for record in group]
        means = self._means(number, records) if shows_tokens(self.recipe) else None
        ranked = self._ranked(groups, means)
        known: Sequence[float | None] = [None] * len(records) if means is None else means
        return [
            {
                "id": record["id"],
                "group": record["group"],
                "tokens": len(record["response_ids"]),
                "teacher_mean_log_prob_nats": mean,
                "teacher_reward": _known(ranked.order.scores[row, place]),
                "ranker_scores": [_known(values[row, place]) for values in ranked.by_ranker.values()],
            }
            for (row, place, record), mean in zip(_places(groups), known, strict=True)
        ]

    def _means(self, number: int, records: Sequence[Record]) -> list[float]:
        """Mean log-probabilities of the responses; what the teacher shows of tokens is stored as shard `number`."""
        items = [self._item(record) for record in records]
        keep = {record["id"] for record in records if record["split"] in self.cached}
        if self.models.served is not None:
            large = self.work / f"asked-{number:05d}.jsonl"  # until the shard is written
            means, shown = self.teacher.scored(items, keep=keep, store=large)
        else:
            large = None
            if self.signal is not None and not self._head_saved:
                self._save_head(items)
            means, shown = self.teacher.scored(items, keep=keep)
        for record, mean in zip(records, means, strict=True):
            finite(mean, "the teacher's mean log-probability", record)
        if self.signal is not None:
            # A kill may have come between the two files of a chunk.
            new = {item_id: rows for item_id, rows in shown.items() if item_id not in self.signal}
            if new:
                self.signal.write_shard(new, number=number)
        if large is not None:
            large.unlink(missing_ok=True)
        found: list[float] = means
        return found

    def _ranked(self, groups: Sequence[Sequence[Record]], means: Sequence[float] | None) -> Ranked:
        """The panel's word on these groups. means: of all responses, None from a teacher without log-probabilities."""
        names = {name for group in groups for name in self._data(group).columns}
        columns: dict[str, list[Any]] = {
            name: [self._data(group).columns.get(name) for group in groups] for name in names
        }
        for name in ("group", "prompt_ids"):
            columns[name] = [group[0][name] for group in groups]
        for name in ("response_ids", "finished", "data_score"):
            columns[name] = [[record[name] for record in group] for group in groups]
        if means is not None:
            each = iter(means)
            columns["teacher_log_prob"] = [[next(each) for _ in group] for group in groups]
        system = self.recipe.data.system
        prompts = [self._data(group).asked(group[0]["messages"], system=system) for group in groups]
        return self.panel(prompts, [[record["response"] for record in group] for group in groups], columns)

    def _data(self, group: Sequence[Record]) -> GroupData:
        return self.data_columns.get(group[0]["group"], GroupData(columns={}))

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
    cure = "fix the data" if what.startswith("the data") else "try teacher.dtype: float32, or take the prompt out"
    raise UserError(f"{what} of the response {record['id']} is {value} (prompt: {prompt[:60]!r}); {cure}")


def _places(groups: Sequence[Sequence[Record]]) -> Iterator[tuple[int, int, Record]]:
    """Group, place in it, and record of every response."""
    for row, group in enumerate(groups):
        for place, record in enumerate(group):
            yield row, place, record


def _known(score: float) -> float | None:
    return None if math.isnan(score) else float(score)
