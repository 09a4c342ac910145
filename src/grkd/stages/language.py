"""A language model's first stages, each from files to files: prepare, respond, score."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from transformers import PreTrainedModel

from grkd.console import console, progress_bar
from grkd.data.chat import encode_prompt, encode_response
from grkd.data.language import Item, collate, response_logits, within_context
from grkd.data.prompts import Example, read_examples, split_heldout
from grkd.errors import UserError
from grkd.files import whole_file, write_json
from grkd.recipe import LanguageRecipe, to_plain
from grkd.stages._folder import RunFolder, identity
from grkd.stages._models import LanguageModels
from grkd.stages._train import check
from grkd.teachers.generate import generate_responses
from grkd.teachers.signal import HiddenCache, TeacherHead, check_head, final_hidden, mean_log_probs

SPLITS = ("train", "heldout")

_TOKENS = pa.list_(pa.int32())
_PROMPTS = pa.schema(
    {"id": pa.string(), "split": pa.string(), "prompt": pa.string(), "prompt_ids": _TOKENS, "response_ids": _TOKENS}
)
_RESPONSES = _PROMPTS.append(pa.field("response", pa.string())).append(pa.field("finished", pa.bool_()))


def prepare(recipe: LanguageRecipe, run: RunFolder, models: LanguageModels) -> Path:
    """Models that must be made first (GGUF, truncated, fresh), and the prompts as token ids."""
    inputs = {
        "data": identity(recipe.data),
        "teacher": identity(recipe.teacher),
        "student": identity(recipe.student),
        "max_new_tokens": recipe.responses.max_new_tokens,
        "source": recipe.responses.source == "data",
        "seed": recipe.seeds[0],
    }

    def make(work: Path) -> None:
        if not run.ranks.is_main_process:
            return
        examples = _examples(recipe)
        console.print("loading teacher and student")
        models.make(work)
        check(recipe.training, recipe.methods, models.numbers_in(work)["vocabulary"])
        records, dropped = _encoded(recipe, examples, models, models.numbers_in(work))
        counts = {f"prompts_{split}": sum(record["split"] == split for record in records) for split in SPLITS}
        for split in SPLITS:
            if not counts[f"prompts_{split}"]:
                raise UserError(f"data: no {split} prompt fits the context; {dropped} were too long and dropped")
        if dropped:
            console.print(f"[yellow]{dropped} prompts are too long for the context and were dropped[/yellow]")
        _write(work / "prompts.parquet", records, _PROMPTS)
        write_json(work / "counts.json", {**counts, "prompts_dropped_too_long": dropped})

    return run.stage("prepare", inputs, make, quick=True)


def respond(recipe: LanguageRecipe, run: RunFolder, models: LanguageModels) -> Path:
    """A response to every prompt, in shards that survive a kill; ranks share the shards."""
    settings = recipe.responses
    inputs = {"responses": to_plain(settings), "prepare": run.key("prepare"), "seed": recipe.seeds[0]}

    def make(work: Path) -> None:
        prompts = pq.read_table(run.path / "prepare" / "prompts.parquet").to_pylist()
        shards = [prompts[at : at + settings.shard_size] for at in range(0, len(prompts), settings.shard_size)]
        mine = range(run.ranks.process_index, len(shards), run.ranks.num_processes)
        missing = [number for number in mine if not _shard(work, number).exists()]
        answer = _Answers(recipe, models) if missing else None
        with progress_bar() as bar:
            total = sum(len(shards[number]) for number in missing)
            task = bar.add_task(f"respond ({settings.source})", total=total, unit="tokens", amount=0)
            tokens = 0
            for number in missing:
                assert answer is not None
                records = answer(shards[number], seed=recipe.seeds[0] * 1_000_003 + number)
                _write(_shard(work, number), records, _RESPONSES)
                tokens += sum(len(record["response_ids"]) for record in records)
                bar.update(task, advance=len(records), amount=tokens)

    return run.stage("respond", inputs, make)


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
                _write(_scores(work, number), scored)
                tokens += sum(record["tokens"] for record in scored)
                bar.update(task, advance=len(scored), amount=tokens)

    return run.stage("score", inputs, make)


def read_items(run: RunFolder, split: str) -> list[Item]:
    """Prompt and response of every example of a split, as token ids."""
    return [
        Item(id=record["id"], prompt_ids=record["prompt_ids"], response_ids=record["response_ids"])
        for record in read_records(run, split)
    ]


def read_records(run: RunFolder, split: str) -> list[dict[str, Any]]:
    """The respond stage's records of a split, in the order of the data."""
    shards = sorted((run.path / "respond").glob("shard-*.parquet"))
    records = [record for shard in shards for record in pq.read_table(shard).to_pylist()]
    return [record for record in records if record["split"] == split]


def batches(
    items: list[Item], size: int, numbers: dict[str, Any], where: torch.device
) -> Iterator[tuple[list[Item], dict[str, Tensor]]]:
    """Collated batches on a device, each beside its items."""
    for at in range(0, len(items), size):
        part = items[at : at + size]
        batch = collate(part, pad_token_id=numbers["pad_token_id"])
        yield part, {name: value.to(where) for name, value in batch.items()}


class _Answers:
    """Answers a shard of prompts from the teacher, the student or the data."""

    def __init__(self, recipe: LanguageRecipe, models: LanguageModels) -> None:
        self.settings, self.numbers, self.tokenizer = recipe.responses, models.numbers, models.tokenizer
        self.model = None
        if self.settings.source == "teacher":
            self.model = models.teacher()
        elif self.settings.source == "student":
            self.model = models.student().to(models.device).eval()

    def __call__(self, records: list[dict[str, Any]], *, seed: int) -> list[dict[str, Any]]:
        """The records with response_ids, response (text) and finished (a stop token ends it)."""
        response_ids = (
            [record["response_ids"] for record in records] if self.model is None else self._sampled(records, seed)
        )
        stops = set(self.numbers["stop_ids"])
        return [
            {
                **record,
                "response_ids": ids,
                "response": self.tokenizer.decode(ids, skip_special_tokens=True),
                "finished": ids[-1] in stops,
            }
            for record, ids in zip(records, response_ids, strict=True)
        ]

    def _sampled(self, records: list[dict[str, Any]], seed: int) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in records]
        assert self.model is not None
        for batch in generate_responses(
            self.model,
            [record["prompt_ids"] for record in records],
            max_new_tokens=self.settings.max_new_tokens,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            stop_ids=self.numbers["stop_ids"],
            pad_token_id=self.numbers["pad_token_id"],
            seed=seed,
            batch_size=self.settings.batch_size,
        ):
            for response in batch:
                found[response.index] = response.response_ids
        return found


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


def _examples(recipe: LanguageRecipe) -> list[tuple[str, Example]]:
    """(split, example) of the whole data, ids made unique across the two files."""
    data = recipe.data
    train = read_examples(Path(data.train), limit=data.limit)
    if data.heldout is not None:
        heldout = read_examples(Path(data.heldout))
    else:
        train, heldout = split_heldout(train, data.heldout_fraction, recipe.seeds[0])
    return [("train", example) for example in train] + [("heldout", example) for example in heldout]


def _encoded(
    recipe: LanguageRecipe, examples: list[tuple[str, Example]], models: LanguageModels, numbers: dict[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """Records with token ids, and how many were dropped because prompt and response exceed the context."""
    data, records, dropped = recipe.data, [], 0
    from_data = recipe.responses.source == "data"
    for split, example in examples:
        prompt_ids = encode_prompt(models.tokenizer, example, system=data.system)
        response_ids: list[int] | None = None
        if from_data:
            if example.completion is None:
                raise UserError(f"data: example {example.id} has no completion, but responses.source is data")
            response_ids = encode_response(models.tokenizer, example, stop_ids=numbers["stop_ids"], system=data.system)[
                : recipe.responses.max_new_tokens
            ]
        if not within_context(
            prompt_ids,
            max_prompt_tokens=data.max_prompt_tokens,
            max_new_tokens=recipe.responses.max_new_tokens,
            context=numbers["context"],
        ):
            dropped += 1
            continue
        records.append(
            {
                "id": f"{split}/{example.id}",
                "split": split,
                "prompt": _shown(example),
                "prompt_ids": prompt_ids,
                "response_ids": response_ids,
            }
        )
    return records, dropped


def _shown(example: Example) -> str:
    """The prompt as people read it: its last message."""
    if example.prompt is not None:
        return example.prompt
    assert example.messages
    return example.messages[-1]["content"]


def _shard(work: Path, number: int) -> Path:
    return work / f"shard-{number:05d}.parquet"


def _scores(work: Path, number: int) -> Path:
    return work / f"scores-{number:05d}.parquet"


def _write(path: Path, records: list[dict[str, Any]], schema: pa.Schema | None = None) -> None:
    with whole_file(path) as aside:
        pq.write_table(pa.Table.from_pylist(records, schema=schema), aside)
