"""The models of the rank task: the student with its tokenizer, and the teacher's logits, live or from a cache."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grkd.console import track
from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.language import Item, check_head_size, collate, response_logits
from grkd.data.prompts import Example
from grkd.errors import UserError
from grkd.teachers.models import check_same_vocabulary, context_length, load_language_model, load_tokenizer
from grkd.teachers.signal import HiddenCache, TeacherHead, mean_log_probs

ENTRIES = 1 << 26  # logits worked on at once, 256 MiB in float32; a few such tensors live together

Batch = dict[str, Tensor]
TeacherLogits = Callable[[Sequence[Item], Batch], Tensor]  # [rows, head], the rows of response_mask in their order


class Student:
    """A student on a device, and what it was asked: `cut` responses were too long, `dropped` prompts left no room."""

    def __init__(self, model: str, *, device: str, batch_size: int) -> None:
        self.model = load_language_model(model, dtype=torch.float32).to(device)
        self.tokenizer = load_tokenizer(model)
        self.batch_size = batch_size
        self.vocabulary = check_head_size(self.model, self.tokenizer, role="student")
        self.stop_ids = stop_token_ids(self.tokenizer, self.model.generation_config)
        pad = self.tokenizer.pad_token_id
        self.pad_token_id = pad if pad is not None else self.stop_ids[0]
        self.cut = self.dropped = 0

    def teacher(self, model: str) -> PreTrainedModel:
        """A teacher with the student's vocabulary, on its device. Raises UserError where vocabularies differ."""
        check_same_vocabulary(load_tokenizer(model), self.tokenizer)
        where = self.model.device
        dtype = torch.bfloat16 if where.type == "cuda" else torch.float32
        return load_language_model(model, dtype=dtype).to(where)

    def batch(self, items: Sequence[Item]) -> Batch:
        """A collated batch on the student's device."""
        batch = collate(items, pad_token_id=self.pad_token_id)
        return {name: value.to(self.model.device) for name, value in batch.items()}

    @torch.no_grad()
    def means(self, model: PreTrainedModel, groups: Sequence[Sequence[Item]]) -> list[list[float]]:
        """Mean log-probability of every response under a model; long ones first, so that a lack of memory shows."""
        flat = [item for group in groups for item in group]
        order = sorted(range(len(flat)), key=lambda n: -(len(flat[n].prompt_ids) + len(flat[n].response_ids)))
        found = [math.nan] * len(flat)
        batches = self._by_memory(flat, order)
        for numbers in track(batches, "rank: responses", unit="batch"):
            batch = self.batch([flat[number] for number in numbers])
            logits = response_logits(model, batch)[..., : self.vocabulary]
            means = mean_log_probs(logits, batch["response_ids"], batch["response_mask"]).tolist()
            for number, mean in zip(numbers, means, strict=True):
                found[number] = mean
        values = iter(found)
        return [[next(values) for _ in group] for group in groups]

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


def live(model: PreTrainedModel) -> TeacherLogits:
    """Logits of a teacher that runs now."""
    return lambda _, batch: response_logits(model, batch)[batch["response_mask"]]


def cached(folder: Path, where: torch.device) -> TeacherLogits:
    """The teacher's logits from the hidden states that the score stage left, through its head."""
    cache, head = HiddenCache(folder / "hidden"), TeacherHead.load(folder / "head.safetensors").to(where)

    def logits(items: Sequence[Item], _: Batch) -> Tensor:
        missing = [item.id for item in items if item.id not in cache]
        if missing:
            raise UserError(f"{folder}: no teacher signal for {missing[0]!r}; run the score stage again")
        found: Tensor = head(torch.cat([cache[item.id] for item in items]).to(where))
        return found

    return logits
