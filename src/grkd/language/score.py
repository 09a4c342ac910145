"""A language model's third stage: the teacher's signal for every response, and its reward."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from grkd import objectives
from grkd.console import console, progress_bar
from grkd.data.language import Group, Item
from grkd.errors import UserError
from grkd.files import write_json
from grkd.language.context import LanguageModels
from grkd.language.prepare import SPLITS
from grkd.language.respond import read_records
from grkd.language.scorer import ASKING, Record, Scorer, finite
from grkd.language.tables import write_table
from grkd.recipe import LanguageRecipe, to_plain
from grkd.run.folder import RunFolder

# A line a response, with its id and group of the respond stage.
SCORES = pa.schema(
    {
        "id": pa.string(),
        "group": pa.string(),
        "tokens": pa.int32(),  # of the response, in the student's vocabulary
        "teacher_mean_log_prob_nats": pa.float64(),
        "teacher_choice_log_win": pa.float64(),  # null where the teacher was not asked
        "teacher_choice_cut": pa.bool_(),  # it saw the responses without their ends
        "teacher_reward": pa.float64(),  # by score.reward
    }
)


def score(recipe: LanguageRecipe, run: RunFolder, models: LanguageModels) -> Path:
    """Every response's mean log-probability and reward by the teacher; for token-level methods its hidden states too.

    Chunks of whole groups survive a kill; ranks share them. Leaves scores-*.parquet (SCORES) and counts.json; for
    signal "cache" also hidden/ and head.safetensors, of those splits whose tokens are compared with the teacher's.
    """
    models.check_vocabularies()
    cached = cached_splits(recipe, shared=models.teacher_tokenizer is None)
    inputs = {
        "score": to_plain(recipe.score),
        "respond": run.key("respond"),
        "device": models.device.type,
        "cached": cached,
    }

    def make(work: Path) -> None:
        groups = [group for split in SPLITS for group in _grouped(read_records(run, split))]
        _check(groups, recipe)
        size = recipe.responses.shard_size
        chunks = [groups[at : at + size] for at in range(0, len(groups), size)]
        mine = range(run.ranks.process_index, len(chunks), run.ranks.num_processes)
        missing = [number for number in mine if not _scores(work, number).exists()]
        scorer = Scorer(recipe, models, work, cached=cached) if missing else None
        with progress_bar() as bar, torch.no_grad():
            total = sum(len(group) for number in missing for group in chunks[number])
            task, tokens = bar.add_task("score (teacher)", total=total, unit="tokens", amount=0), 0
            for number in missing:
                assert scorer is not None
                scored = scorer(number, chunks[number])
                write_table(_scores(work, number), scored, SCORES)
                tokens += sum(record["tokens"] for record in scored)
                bar.update(task, advance=len(scored), amount=tokens)
        run.ranks.wait_for_everyone()
        if run.ranks.is_main_process:
            _count(work, asked=recipe.score.reward in ASKING)

    return run.stage("score", inputs, make)


def read_groups(run: RunFolder, split: str) -> list[Group]:
    """Every prompt's responses with the teacher's rewards, in the order of the data."""
    rewards = {
        record["id"]: record["teacher_reward"]
        for path in sorted((run.path / "score").glob("scores-*.parquet"))
        for record in pq.read_table(path, columns=["id", "teacher_reward"]).to_pylist()
    }
    groups, index = [], 0
    for records in _grouped(read_records(run, split)):
        items = tuple(
            Item(
                id=record["id"], prompt_ids=record["prompt_ids"], response_ids=record["response_ids"], index=index + at
            )
            for at, record in enumerate(records)
        )
        index += len(items)
        groups.append(
            Group(
                id=records[0]["group"],
                items=items,
                teacher_scores=tuple(rewards[item.id] for item in items),
                sources=tuple(record["source"] for record in records),
            )
        )
    return groups


def cached_splits(recipe: LanguageRecipe, *, shared: bool) -> list[str]:
    """The splits of which the teacher's hidden states are stored.

    Held-out responses: rank fidelity is measured on their tokens. Training responses, most of the space: only where a
    method compares their tokens with the teacher's (an on-policy method has the teacher run in every step anyway).
    shared: teacher and student have one vocabulary; without that no tokens are compared.
    """
    if recipe.score.signal != "cache" or not shared:
        return []
    loaded = [objectives.load(method.name, **method.options) for method in recipe.methods]
    by_token = any("row" in each.levels and each.needs_teacher and not each.on_policy for each in loaded)
    return ["train", "heldout"] if by_token else ["heldout"]


def _grouped(records: Sequence[Record]) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["group"], []).append(record)
    return list(groups.values())


def _check(groups: Sequence[Sequence[Record]], recipe: LanguageRecipe) -> None:
    """Raises UserError for responses that cannot be scored: before the teacher is loaded."""
    for record in (record for group in groups for record in group):
        if not record["response_ids"]:
            raise UserError(
                f"respond: the response {record['id']} has no tokens; take its prompt out of {recipe.data.source}"
            )
        if recipe.score.reward != "data":
            continue
        if record["data_score"] is None:
            raise UserError(
                f"score.reward is data, but the response {record['id']} (from the {record['source']}) has no score; "
                f"give teacher_scores beside responses in {recipe.data.source}, or set score.reward to log_prob"
            )
        finite(record["data_score"], "the data's score", record)


def _count(work: Path, *, asked: bool) -> None:
    """counts.json over all chunks, and a line for each number that a user should know."""
    groups: dict[str, list[Record]] = {}
    for path in sorted(work.glob("scores-*.parquet")):
        for record in pq.read_table(path).to_pylist():
            groups.setdefault(record["group"], []).append(record)
    several = [group for group in groups.values() if len(group) > 1]
    equal = sum(len({record["teacher_reward"] for record in group}) == 1 for group in several)
    cut = sum(group[0]["teacher_choice_cut"] for group in several)
    silent = sum(group[0]["teacher_choice_log_win"] is None for group in several) if asked else 0
    write_json(
        work / "counts.json",
        {
            "groups_scored": len(groups),
            "groups_all_scores_equal": equal,
            "groups_cut_for_comparison": cut,
            "groups_not_compared": silent,
        },
    )
    told = {
        "have equal scores throughout and make no pair": equal,
        "were cut to fit the teacher's context when it compared them": cut,
        "are too long for the teacher to compare: their reward is the log-probability alone": silent,
    }
    for words, number in told.items():
        if number:
            console.print(f"[yellow]{number} of {len(groups)} groups {words}[/yellow]")


def _scores(work: Path, number: int) -> Path:
    return work / f"scores-{number:05d}.parquet"
