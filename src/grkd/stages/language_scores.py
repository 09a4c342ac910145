"""A language model's third stage: the teacher's signal for every response."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grkd.console import progress_bar
from grkd.data.language import Item, collate, response_logits
from grkd.errors import UserError
from grkd.recipe import LanguageRecipe, to_plain
from grkd.stages._folder import RunFolder
from grkd.stages._models import LanguageModels
from grkd.stages._tables import write_table
from grkd.stages.language_prompts import SPLITS
from grkd.stages.language_responses import read_items
from grkd.teachers.signal import HiddenCache, TeacherHead, check_head, final_hidden, mean_log_probs


def score(recipe: LanguageRecipe, run: RunFolder, models: LanguageModels) -> Path:
    """The teacher's mean log-probability of every response; for signal "cache" also its hidden states and head."""
    settings = recipe.score
    inputs = {"score": to_plain(settings), "respond": run.key("respond"), "device": models.device.type}

    def make(work: Path) -> None:
        if not run.ranks.is_main_process:
            return
        teacher = models.teacher()
        items = [item for split in SPLITS for item in read_items(run, split)]
        size = recipe.responses.shard_size
        chunks = [items[at : at + size] for at in range(0, len(items), size)]
        missing = [number for number in range(len(chunks)) if not _scores(work, number).exists()]
        cache = None
        if settings.signal == "cache":
            cache = HiddenCache(work / "hidden", dtype="bfloat16" if teacher.dtype == torch.bfloat16 else "float32")
            first = batches(items[: settings.batch_size], settings.batch_size, models.numbers, models.device)
            check_head(teacher, next(first)[1])
            TeacherHead.of(teacher, vocabulary=models.numbers["vocabulary"]).save(work / "head.safetensors")
        with progress_bar() as bar, torch.no_grad():
            task = bar.add_task("score (teacher)", total=sum(len(chunks[n]) for n in missing), unit="tokens", amount=0)
            tokens = 0
            for number in missing:
                scored, hidden = _score(teacher, chunks[number], recipe, models, keep=cache is not None)
                if cache is not None:
                    new = {item_id: rows for item_id, rows in hidden.items() if item_id not in cache}
                    if new:  # a kill may have come between the two files of a chunk
                        cache.write_shard(new)
                write_table(_scores(work, number), scored)
                tokens += sum(record["tokens"] for record in scored)
                bar.update(task, advance=len(scored), amount=tokens)

    return run.stage("score", inputs, make)


def batches(
    items: list[Item], size: int, numbers: dict[str, Any], where: torch.device
) -> Iterator[tuple[list[Item], dict[str, Tensor]]]:
    """Collated batches on a device, each beside its items."""
    for at in range(0, len(items), size):
        part = items[at : at + size]
        batch = collate(part, pad_token_id=numbers["pad_token_id"])
        yield part, {name: value.to(where) for name, value in batch.items()}


def _score(
    teacher: PreTrainedModel, items: list[Item], recipe: LanguageRecipe, models: LanguageModels, *, keep: bool
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Mean log-probability of each response, and its hidden states where they are kept."""
    scored: list[dict[str, Any]] = []
    hidden: dict[str, Tensor] = {}
    for part, batch in batches(items, recipe.score.batch_size, models.numbers, models.device):
        if keep:
            states = final_hidden(teacher, batch)
            hidden |= {item.id: states[row, : len(item.response_ids)].cpu() for row, item in enumerate(part)}
        logits = response_logits(teacher, batch)[..., : models.numbers["vocabulary"]]
        means = mean_log_probs(logits, batch["response_ids"], batch["response_mask"]).tolist()
        for item, mean in zip(part, means, strict=True):
            if not math.isfinite(mean):
                raise UserError(f"teacher: its log-probability of the response to {item.id} is {mean}")
            scored.append({"id": item.id, "teacher_mean_log_prob_nats": mean, "tokens": len(item.response_ids)})
    return scored, hidden


def _scores(work: Path, number: int) -> Path:
    return work / f"scores-{number:05d}.parquet"
