"""A language model's second stage: responses to every prompt."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from grkd.console import progress_bar
from grkd.data.language import Item
from grkd.recipe import LanguageRecipe, to_plain
from grkd.stages._folder import RunFolder
from grkd.stages._models import LanguageModels
from grkd.stages._tables import RESPONSES, write_table
from grkd.teachers.generate import generate_responses


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
                write_table(_shard(work, number), records, RESPONSES)
                tokens += sum(len(record["response_ids"]) for record in records)
                bar.update(task, advance=len(records), amount=tokens)

    return run.stage("respond", inputs, make)


def read_items(run: RunFolder, split: str) -> list[Item]:
    """Every response of a split with its prompt, as token ids."""
    return [item for items in grouped(read_records(run, split)).values() for item in items]


def grouped(records: list[dict[str, Any]]) -> dict[str, list[Item]]:
    """The responses of each prompt, in the order of the data."""
    groups: dict[str, list[Item]] = {}
    for record in records:
        item = Item(id=record["id"], prompt_ids=record["prompt_ids"], response_ids=record["response_ids"])
        groups.setdefault(record["group"], []).append(item)
    return groups


def read_records(run: RunFolder, split: str) -> list[dict[str, Any]]:
    """The respond stage's records of a split, a record a response, in the order of the data."""
    shards = sorted((run.path / "respond").glob("shard-*.parquet"))
    records = [record for shard in shards for record in pq.read_table(shard).to_pylist()]
    return [record for record in records if record["split"] == split]


class _Answers:
    """Answers a shard of prompts from the teacher, the student or the data."""

    def __init__(self, recipe: LanguageRecipe, models: LanguageModels) -> None:
        self.settings, self.numbers, self.tokenizer = recipe.responses, models.numbers, models.tokenizer
        self.model = None
        if self.settings.source == "teacher":
            self.model = models.teacher()
        elif self.settings.source == "student":
            self.model = models.student().to(models.device).eval()

    def __call__(self, prompts: list[dict[str, Any]], *, seed: int) -> list[dict[str, Any]]:
        """A record a response, with response_ids, response (text) and finished (a stop token ends it)."""
        if self.model is None:
            responses = [prompt["data_response_ids"][0] for prompt in prompts]
        else:
            responses = self._sampled(prompts, seed)
        stops = set(self.numbers["stop_ids"])
        return [
            {
                **{name: prompt[name] for name in ("split", "prompt", "messages", "prompt_ids")},
                "id": f"{prompt['id']}#0",
                "group": prompt["id"],
                "index": 0,
                "source": self.settings.source,
                "response_ids": ids,
                "response": self.tokenizer.decode(ids, skip_special_tokens=True),
                "finished": ids[-1] in stops,
                "data_score": None,
            }
            for prompt, ids in zip(prompts, responses, strict=True)
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


def _shard(work: Path, number: int) -> Path:
    return work / f"shard-{number:05d}.parquet"
