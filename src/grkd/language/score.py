"""A language model's third stage: the teacher's signal for every response, and its reward."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from grkd import objectives
from grkd.console import progress_bar
from grkd.data.language import Group, Item, VotesOnPairs
from grkd.data.prompts import conversation_numbers
from grkd.data.tables import write_table
from grkd.errors import UserError
from grkd.files import parse_json, read_json
from grkd.language.context import LanguageContext
from grkd.language.examples import SPLITS
from grkd.language.fresh import samples_groups
from grkd.language.record_columns import RecordColumns, check_columns, record_columns
from grkd.language.respond import by_group, read_records
from grkd.language.score_report import RANKERS, read_scores, report_order, with_tallies
from grkd.language.scorer import Scorer, panel_of
from grkd.language.several import is_routed, pooled_scores, teachers_identity
from grkd.language.teacher_scorer import Record
from grkd.language.token_agreement import token_agreement
from grkd.models.shard import in_turns
from grkd.objectives import Objective
from grkd.rankers import Panel, votes
from grkd.ranks import gathered, wait
from grkd.recipe import LanguageRecipe, SelfTeacher
from grkd.run.folder import RunFolder
from grkd.teacher.turns import check_routes
from grkd.training.fresh_groups import orders

# One row per response, with its id and group of the respond stage.
SCORES = pa.schema(
    {
        "id": pa.string(),
        "group": pa.string(),
        "tokens": pa.int32(),  # of the response, in the student's vocabulary
        "teacher_mean_log_prob_nats": pa.float64(),
        "teacher_reward": pa.float64(),  # its place in the rankers' order, higher is better; null: it has none
        "ranker_scores": pa.list_(pa.float64()),  # in the order of rankers.json; null: no opinion
    }
)


def score(context: LanguageContext) -> Path:
    """Every response's mean log-probability by the teacher and its place in the rankers' order; for token-level methods
    the teacher's hidden states too.

    Chunks of whole groups survive a kill; ranks share them. Leaves scores-*.parquet (SCORES), rankers.json (how the
    rankers agree), teachers.json (how several teachers agree on tokens) and counts.json; for signal "cache" also
    hidden/ and head.safetensors, of those splits whose tokens are compared with the teacher's. Judges' answers lie in
    the run's folder rankers/, so that no change of the recipe asks for them again.
    """
    context.models.check_vocabularies()
    panel = panel_of(context.recipe.score, context.recipe.teacher)
    cached = cached_splits(context.recipe, shared=context.models.tokens_cross, crosses=context.models.crosses)
    inputs = {
        "score": {
            "signal": context.recipe.score.signal,
            "batch_size": context.recipe.score.batch_size,
            **panel.identity(),
            **({"top_k": context.models.served.top_k} if cached and context.models.served is not None else {}),
            **teachers_identity(context.recipe),
        },
        "respond": context.run.key("respond"),
        "device": context.models.device.type,
        "cached": cached,
    }

    def make(work: Path) -> None:
        groups = [group for split in SPLITS for group in by_group(read_records(context.run, split)).values()]
        columns_read = is_routed(context.recipe) or context.recipe.score.rankers is not None
        data_columns = record_columns(context.recipe) if columns_read else RecordColumns()
        _check(groups, context.recipe, panel, data_columns)
        if isinstance(context.recipe.teacher, list):
            names = [group[0]["group"] for group in groups]
            routes = [each.only for each in context.recipe.teacher]
            check_routes(((name, data_columns[name].columns) for name in names), routes, "teacher")
        size = context.recipe.responses.shard_size
        chunks = [groups[at : at + size] for at in range(0, len(groups), size)]
        mine = range(context.run.ranks.process_index, len(chunks), context.run.ranks.num_processes)
        missing = [number for number in mine if not _scores(work, number).exists()]
        scorer = Scorer(context, work, panel, cached=cached, data_columns=data_columns)
        with panel, progress_bar() as bar, torch.no_grad():
            # Every process holds a part of a teacher that is spread over them.
            opened = any(gathered([bool(missing)], "score")) if context.models.teacher_is_spread else bool(missing)
            if opened:
                scorer.open(context.run.path / "rankers" / f"process-{context.run.ranks.process_index}")
            total = sum(len(group) for number in missing for group in chunks[number])
            task, tokens = bar.add_task("score (teacher)", total=total, unit="tokens", amount=0), 0
            with in_turns(*(scorer.asked if opened else ())):
                for number in missing:
                    scored = scorer(number, chunks[number])
                    write_table(_scores(work, number), scored, with_tallies(SCORES, panel.tallies(reset=True)))
                    tokens += sum(record["tokens"] for record in scored)
                    bar.update(task, advance=len(scored), amount=tokens)
        wait("score")
        if context.run.ranks.is_main_process:
            report_order(work, panel)
            if len(context.teachers) > 1 and "heldout" in cached:
                items = [Item(each["id"], [0], each["response_ids"]) for each in read_records(context.run, "heldout")]
                token_agreement(context, pooled_scores(context, work), items, work)

    return context.run.stage("score", inputs, make)


def read_groups(run: RunFolder, split: str) -> list[Group]:
    """Every prompt's responses with their places in the rankers' order (NaN: none), in the order of the data."""
    scored, voters = read_scores(run.path / "score"), read_json(run.path / "score" / RANKERS)
    groups, index = [], 0
    grouped = by_group(read_records(run, split))
    conversations = conversation_numbers([parse_json(records[0]["messages"]) for records in grouped.values()])
    for (name, records), conversation in zip(grouped.items(), conversations, strict=True):
        items = tuple(
            Item(
                id=record["id"], prompt_ids=record["prompt_ids"], response_ids=record["response_ids"], index=index + at
            )
            for at, record in enumerate(records)
        )
        index += len(items)
        groups.append(
            Group(
                id=name,
                items=items,
                teacher_scores=_numbers([scored[item.id]["teacher_reward"] for item in items]),
                sources=tuple(record["source"] for record in records),
                votes=_votes(voters, [scored[item.id]["ranker_scores"] for item in items]),
                conversation=conversation,
            )
        )
    return groups


def _votes(voters: dict[str, Any], scores: Sequence[Sequence[float | None]]) -> VotesOnPairs | None:
    """Votes of the rankers on one group, where the recipe combines by votes; scores: one list per response."""
    if voters["combine"] != "votes":
        return None
    found = votes([np.array([_numbers(each)]) for each in zip(*scores, strict=True)], voters["weights"])
    share, weight = (tuple(map(tuple, matrix[0].tolist())) for matrix in (found.share, found.weight))
    return share, weight


def _numbers(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(math.nan if value is None else value for value in values)


def cached_splits(recipe: LanguageRecipe, *, shared: bool, crosses: bool = False) -> list[str]:
    """The splits of which the teacher's hidden states are stored.

    Held-out responses: rank fidelity is measured on their tokens. Training responses, most of the space: only if a
    method learns their tokens from the teacher, of all prompts or of those that the student does not answer again.
    shared: teacher and student have one vocabulary; without that no tokens are compared, or (crosses) where the two
    tokenisations meet.
    """
    if not (shared or crosses) or (recipe.score.signal != "cache" and not crosses):
        return []
    loaded = [objectives.load(method.name, **method.options) for method in recipe.methods]
    by_token = [each for each in loaded if "row" in each.levels and each.needs_teacher]
    stored = any(_reads_stored(recipe, each, crosses=crosses) for each in by_token)
    return ["train", "heldout"] if stored else ["heldout"]


def _reads_stored(recipe: LanguageRecipe, objective: Objective, *, crosses: bool) -> bool:
    """Whether a method that learns from the teacher's tokens reads stored ones.

    Beside responses that are sampled in training: only those of one teacher that reads the student's own tokens.
    """
    if crosses or isinstance(recipe.teacher, list | SelfTeacher):
        return not objective.on_policy
    if samples_groups(recipe, objective) and orders(objective):
        return recipe.responses.stored_share > 0
    return objective.on_policy < 1


def _check(
    groups: Sequence[Sequence[Record]], recipe: LanguageRecipe, panel: Panel, data_columns: RecordColumns
) -> None:
    """Raises UserError for responses that cannot be scored: before the teacher is loaded."""
    check_columns(panel, data_columns, [group[0]["group"] for group in groups], where=recipe.data.source)
    graded_by_data = [member.ranker.reads for member in panel.members] == [("data_score",)]
    for record in (record for group in groups for record in group):
        if not record["response_ids"]:
            raise UserError(
                f"respond: the response {record['id']} has no tokens; remove its prompt from {recipe.data.source}"
            )
        if graded_by_data and record["data_score"] is None:
            raise UserError(
                f"score.reward is data, but the response {record['id']} (from the {record['source']}) has no score; "
                f"give teacher_scores beside responses in {recipe.data.source}, or set score.reward to log_prob"
            )


def _scores(work: Path, number: int) -> Path:
    return work / f"scores-{number:05d}.parquet"
