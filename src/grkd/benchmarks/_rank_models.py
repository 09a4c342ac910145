"""The models of the rank task: the student with its tokenizer, and its teacher, live or from a cache."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grkd.answers.identity import model_digest
from grkd.console import track
from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.language import Item, check_head_size, collate, response_logits
from grkd.data.prompts import Example
from grkd.endpoint.journal import Journal
from grkd.errors import UserError
from grkd.files import digest, file_digest
from grkd.metrics.registry import OF_RANKS
from grkd.models.load import check_same_vocabulary, context_length, load_language_model, load_tokenizer
from grkd.teacher.cached_teacher import DenseScores, token_measures
from grkd.teacher.signal import HiddenCache, TeacherHead, mean_log_probs
from grkd.teacher.stored_scores import StoredScores

ENTRIES = 1 << 26  # logits worked on at once, 256 MiB in float32; a few such tensors live together

Batch = dict[str, Tensor]
Precision = tuple[str, str]  # "bfloat16", "cuda": what measures are made in, and where


class OtherTokens(UserError):
    """The teacher's vocabulary is not the student's."""


class Student:
    """A student on a device, and what it was asked: `cut` responses were too long, `dropped` prompts left no room.

    journal: what was measured so far, of this model and others. identity: what its measures are known by there, with
    their precision.
    """

    def __init__(self, model: str, *, device: str, batch_size: int, store: Path | None = None) -> None:
        self.model = load_language_model(model, dtype=torch.float32).to(device)
        self.tokenizer = load_tokenizer(model)
        self.batch_size = batch_size
        self.vocabulary = check_head_size(self.model, self.tokenizer, role="student")
        self.stop_ids = stop_token_ids(self.tokenizer, self.model.generation_config)
        pad = self.tokenizer.pad_token_id
        self.pad_token_id = pad if pad is not None else self.stop_ids[0]
        self.cut = self.dropped = 0
        self.journal = Journal(store)
        self.identity = model_digest(model) if store is not None else f"student {model}"

    @property
    def precision(self) -> Precision:
        return _precision(self.model.dtype, self.model.device)

    def batch(self, items: Sequence[Item]) -> Batch:
        """A collated batch on the student's device."""
        batch = collate(items, pad_token_id=self.pad_token_id)
        return {name: value.to(self.model.device) for name, value in batch.items()}

    def means(self, scorer: "Student | LiveTeacher", groups: Sequence[Sequence[Item]]) -> list[list[float]]:
        """Mean log-probability of every response under a model, nats per token; those in the journal are kept.

        Long ones first, so that a lack of memory shows. Batches are the same whatever is in the journal, so a
        resumed run finds the same values.
        """
        flat = [item for group in groups for item in group]
        measured = ["mean", scorer.identity, scorer.precision]
        keys = [digest([*measured, item.prompt_ids, item.response_ids]) for item in flat]
        order = sorted(range(len(flat)), key=lambda n: -(len(flat[n].prompt_ids) + len(flat[n].response_ids)))
        batches = self._by_memory(flat, order)
        missing = [numbers for numbers in batches if any(keys[number] not in self.journal for number in numbers)]
        for numbers in track(missing, "rank: responses", unit="batch") if missing else ():
            for number, mean in zip(numbers, self._means(scorer.model, [flat[n] for n in numbers]), strict=True):
                self.journal.add(keys[number], {"id": flat[number].id, "mean_log_prob_nats": mean})
        values = iter(self.journal[key]["mean_log_prob_nats"] for key in keys)
        return [[next(values) for _ in group] for group in groups]

    @torch.no_grad()
    def _means(self, model: PreTrainedModel, items: Sequence[Item]) -> list[float]:
        batch = self.batch(items)
        logits = response_logits(model, batch)[..., : self.vocabulary]
        check_finite(logits[batch["response_mask"]], items)
        found: list[float] = mean_log_probs(logits, batch["response_ids"], batch["response_mask"]).tolist()
        return found

    def _by_memory(self, items: Sequence[Item], order: Sequence[int]) -> list[list[int]]:
        """Batches of at most batch_size items whose logits fit into ENTRIES."""
        batches: list[list[int]] = []
        longest = 0
        for number in order:
            length = len(items[number].response_ids)
            longest = max(longest, length)
            full = not batches or len(batches[-1]) == self.batch_size
            if full or (len(batches[-1]) + 1) * longest * self.vocabulary > ENTRIES:
                batches.append([])
                longest = length
            batches[-1].append(number)
        return batches

    def encoded(self, prompts: Sequence[tuple[Example, Sequence[Example]]]) -> list[list[Item]]:
        """Items of every prompt's responses, cut to the context; none for a prompt that leaves no room for any."""
        context = context_length(self.model) or 1 << 20
        found = []
        for prompt, answers in prompts:
            prompt_ids = encode_prompt(self.tokenizer, prompt)
            room = context - len(prompt_ids)
            items = []
            for number, answer in enumerate(answers if room > 0 else ()):
                response_ids = encode_response(self.tokenizer, answer, stop_ids=self.stop_ids)
                self.cut += len(response_ids) > room
                name = prompt.id if len(answers) == 1 else f"{prompt.id}#{number}"
                items.append(Item(id=name, prompt_ids=prompt_ids, response_ids=response_ids[:room]))
            self.dropped += not items
            found.append(items)
        return found


class LiveTeacher:
    """A teacher with the student's vocabulary, on its device, loaded when it is first needed.

    Raises OtherTokens if vocabularies differ, UserError where its tokenizer cannot be loaded.
    """

    unknown: frozenset[str] = frozenset()

    def __init__(self, name: str, student: Student) -> None:
        self.name, self._student = name, student
        tokenizer = load_tokenizer(name)
        try:
            check_same_vocabulary(tokenizer, student.tokenizer)
        except UserError as error:
            raise OtherTokens(str(error)) from None

    @cached_property
    def identity(self) -> str:
        return model_digest(self.name)

    @property
    def precision(self) -> Precision:
        return _precision(self._dtype, self._student.model.device)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self._student.model.device.type == "cuda" else torch.float32

    @cached_property
    def model(self) -> PreTrainedModel:
        return load_language_model(self.name, dtype=self._dtype).to(self._student.model.device)

    def logits(self, _: Sequence[Item], batch: Batch) -> Tensor:
        """[rows, head], the rows of response_mask in their order."""
        return response_logits(self.model, batch)[batch["response_mask"]]


class CachedTeacher:
    """The teacher's logits from the hidden states that the score stage left, through its head."""

    unknown: frozenset[str] = frozenset()

    def __init__(self, folder: Path, student: Student) -> None:
        self.folder, self._where = folder, student.model.device
        self._cache = HiddenCache(folder / "hidden")

    @cached_property
    def identity(self) -> str:
        return _left_by(self.folder)

    @property
    def precision(self) -> Precision:
        return "as stored", self._where.type

    @cached_property
    def _head(self) -> TeacherHead:
        return TeacherHead.load(self.folder / "head.safetensors").to(self._where)

    def logits(self, items: Sequence[Item], _: Batch) -> Tensor:
        """[rows, head], the items' response tokens one after the other."""
        missing = [item.id for item in items if item.id not in self._cache]
        if missing:
            raise UserError(f"{self.folder}: no teacher signal for {missing[0]!r}; run the score stage again")
        found: Tensor = self._head(torch.cat([self._cache[item.id] for item in items]).to(self._where))
        return found


class StoredTeacher:
    """A teacher whose scores of tokens are stored: a server's top k, or a cache of ranks.

    unknown: measures that such scores cannot give.
    """

    def __init__(self, scores: StoredScores, student: Student, *, folder: Path) -> None:
        self._scores, self._student, self.identity = scores, student, _left_by(folder)
        known = token_measures(scores.cache) if isinstance(scores, DenseScores) else OF_RANKS
        self.unknown = frozenset(OF_RANKS) - frozenset(known)

    @property
    def precision(self) -> Precision:
        return "as stored", self._student.model.device.type

    def logits(self, items: Sequence[Item], _: Batch) -> Tensor:
        """[rows, vocabulary], log-probabilities or what orders as they do, item after item."""
        missing = [item.id for item in items if not self._scores.has(item)]
        if missing:
            raise UserError(f"rank: no stored scores of the response {missing[0]!r}; run the score stage again")
        device = self._student.model.device
        batch = {name: value.to(device) for name, value in self._scores.collate(items).items()}
        found = self._scores.scores(batch, vocabulary=self._student.vocabulary)
        assert found is not None
        return found


def _left_by(score: Path) -> str:
    """What is measured against a score stage's signal is known by: the stage's manifest."""
    manifest = score / "manifest.json"
    return file_digest(manifest) if manifest.is_file() else str(score.resolve())


def _precision(dtype: torch.dtype, device: torch.device) -> Precision:
    return str(dtype).removeprefix("torch."), device.type


def check_finite(logits: Tensor, items: Sequence[Item]) -> None:
    """Raises UserError for scores that are no numbers: nothing that is measured of them would mean anything."""
    if not bool(logits.isfinite().all()):
        raise UserError(f"rank: some scores of the responses {items[0].id} to {items[-1].id} are not finite")
