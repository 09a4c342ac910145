"""A language model's second stage: a group of responses to every prompt."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grkd.console import console, progress_bar
from grkd.data.chat import decode_response, opened_thought
from grkd.data.groups import choose_diverse, first_of_equal, shared_out
from grkd.data.tables import read_metadata, read_table, write_table
from grkd.errors import UserError
from grkd.files import write_json
from grkd.language.context import LanguageContext
from grkd.language.examples import SPLITS
from grkd.language.sampling import samplers
from grkd.language.several_writers import SeveralWriters
from grkd.language.shard import Shard
from grkd.language.tables import RESPONSES
from grkd.models.generate import free_memory
from grkd.models.shard import in_turns
from grkd.ranks import gathered, wait
from grkd.recipe import Responses, label_of, to_plain
from grkd.run.folder import RunFolder

Record = dict[str, Any]

SOURCES = ("teacher", "student", "data")
_BY = "responses_by_"  # and a teacher's label
_COUNTS = b"grkd_counts"  # key of a shard's counts in its own metadata: both are there or neither


def respond(context: LanguageContext) -> Path:
    """Groups of responses in shards of whole groups that survive a kill; ranks share the shards.

    Leaves shard-*.parquet (RESPONSES) and counts.json. What a shard holds depends on the recipe and its prompts alone,
    not on the rank that makes it. Raises UserError if no group of a split is left.
    """
    settings = context.recipe.responses
    made_of = to_plain(settings)
    del made_of["use_vllm"]  # of responses in training alone
    inputs: dict[str, Any] = {
        "responses": made_of,
        "prepare": context.run.key("prepare"),
        "seed": context.recipe.seeds[0],
    }
    if isinstance(context.recipe.teacher, list) and "teacher" in _quotas(settings):
        inputs["writers"] = [[label_of(each), each.weight, each.only] for each in context.recipe.teacher]

    def make(work: Path) -> None:
        prompts = read_table(context.run.path / "prepare" / "prompts.parquet")
        shards = [prompts[at : at + settings.shard_size] for at in range(0, len(prompts), settings.shard_size)]
        mine = range(context.run.ranks.process_index, len(shards), context.run.ranks.num_processes)
        missing = {number: shards[number] for number in mine if not _shard(work, number).exists()}
        spread = context.models.teacher_is_spread
        if any(gathered([bool(missing)], "respond")) if spread else missing:
            _make_shards(context, work, missing, prompts)
        wait("respond")
        counts = _total([_shard(work, number) for number in range(len(shards))])
        _check_left(counts, settings)
        if context.run.ranks.is_main_process:
            write_json(work / "counts.json", counts)
            _say(counts, settings)

    return context.run.stage("respond", inputs, make)


def read_records(run: RunFolder, split: str) -> list[Record]:
    """The respond stage's records of a split, a record per response, in the order of the data."""
    shards = sorted((run.path / "respond").glob("shard-*.parquet"))
    records = [record for shard in shards for record in read_table(shard)]
    return [record for record in records if record["split"] == split]


def by_group(records: Iterable[Record]) -> dict[str, list[Record]]:
    """The records of each prompt, in their order."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["group"], []).append(record)
    return groups


@dataclass(frozen=True)
class _Candidate:
    """A response that may enter a group. writer: of several teachers."""

    source: str
    response_ids: list[int]
    text: str
    data_score: float | None = None
    writer: str | None = None


def _make_shards(
    context: LanguageContext, work: Path, missing: dict[int, list[Record]], prompts: Sequence[Record]
) -> None:
    """Write the shards that are missing; `prompts` are those of the whole run."""
    answers = _Answers(context, prompts)
    settings = context.recipe.responses
    try:
        with progress_bar() as bar, in_turns(*answers.teachers):
            total = sum(map(len, missing.values())) * sum(answers.shares.values())
            task = bar.add_task(f"respond ({settings.source})", total=total, unit="tokens", amount=0)
            tokens = 0

            def progress(responses: int, new_tokens: int) -> None:
                nonlocal tokens
                tokens += new_tokens
                bar.update(task, advance=responses, amount=tokens)

            for number, part in missing.items():
                journal = work / f"answers-{number:05d}.jsonl"
                shard = Shard(prompts=part, number=number, progress=progress, counts=Counter(), journal=journal)
                records = answers(shard)
                write_table(_shard(work, number), records, RESPONSES.with_metadata({_COUNTS: json.dumps(shard.counts)}))
                for own in work.glob(f"{journal.stem}-*.jsonl"):
                    own.unlink()
    finally:
        del answers
        free_memory()


class _Answers:
    """Groups of responses to a shard of prompts, from the recipe's sources.

    shares: candidates a prompt that come from each source; quotas: how many of them a group keeps.
    """

    def __init__(self, context: LanguageContext, prompts: Sequence[Record]) -> None:
        self.settings, self.tokenizer = context.recipe.responses, context.models.tokenizer
        self.stops = set(context.models.numbers["stop_ids"])
        self.quotas = _quotas(self.settings)
        self.shares = shared_out(self.settings.candidates or self.settings.n, self.quotas)
        self.samplers = samplers(context, self.shares, prompts)
        teacher = self.samplers.get("teacher")
        self.turns = teacher.turns if isinstance(teacher, SeveralWriters) else None
        self.teachers = teacher.models if isinstance(teacher, SeveralWriters) else [getattr(teacher, "model", None)]

    def __call__(self, shard: Shard) -> list[Record]:
        """The records of RESPONSES; what is to be counted of the shard is. Each source has a journal of its own."""
        candidates: list[list[_Candidate]] = [[] for _ in shard.prompts]
        for source in self.quotas:
            if source == "data":
                found = [self._of_data(prompt) for prompt in shard.prompts]
                shard.progress(len(shard.prompts) * self.shares[source], 0)
            else:
                sampled = self.samplers[source](shard.part(source))
                found = [self._of(source, prompt, each) for prompt, each in zip(shard.prompts, sampled, strict=True)]
            for each, more in zip(candidates, found, strict=True):
                each += more
        return [
            record
            for prompt, each in zip(shard.prompts, candidates, strict=True)
            for record in self._records(prompt, self._kept(each, shard.counts), shard.counts)
        ]

    def _of(self, source: str, prompt: Record, sampled: list[list[int]]) -> list[_Candidate]:
        turns = self.turns if source == "teacher" else None
        writers = [None] * len(sampled) if turns is None else turns[prompt["id"]]
        return [
            _Candidate(source, ids, self._text(ids), writer=writer)
            for ids, writer in zip(sampled, writers, strict=True)
        ]

    def _of_data(self, prompt: Record) -> list[_Candidate]:
        """What the data has, in its order: as many different ones as its share, all where it has fewer."""
        responses = prompt["data_response_ids"]
        scores = prompt["data_scores"] or [None] * len(responses)
        found = [_Candidate("data", ids, self._text(ids), score) for ids, score in zip(responses, scores, strict=True)]
        different, share = first_of_equal([candidate.text for candidate in found]), self.shares["data"]
        if len(different) < share:
            return found
        last = different[share - 1]  # equal ones before it are dropped, and counted, with those of other sources
        return found[: last + 1]

    def _kept(self, candidates: list[_Candidate], counts: Counter[str]) -> list[_Candidate]:
        """The candidates that make the group; none where fewer than two differ (of n = 1: if there is none)."""
        n = self.settings.n
        written = [candidate for candidate in candidates if candidate.response_ids]
        if n == 1:
            kept = written[:1]
        else:
            spoken = [candidate for candidate in written if candidate.text.strip()]
            texts, sources = [each.text for each in spoken], [each.source for each in spoken]
            counts["empty_dropped"] += len(written) - len(spoken)
            counts["duplicates_dropped"] += len(texts) - len(first_of_equal(texts))
            kept = [spoken[index] for index in choose_diverse(texts, n, sources=sources, quotas=self.quotas)]
        if len(kept) < min(n, 2):
            counts["groups_dropped"] += 1
            return []
        return kept

    def _records(self, prompt: Record, kept: list[_Candidate], counts: Counter[str]) -> list[Record]:
        counts[f"groups_{prompt['split']}"] += bool(kept)
        records = []
        opened = opened_thought(self.tokenizer, prompt["prompt_ids"])
        for index, candidate in enumerate(kept):
            finished = candidate.response_ids[-1] in self.stops
            counts[f"responses_from_{candidate.source}"] += 1
            if candidate.writer is not None:
                counts[f"{_BY}{candidate.writer}"] += 1
            counts["responses_cut"] += not finished
            counts["response_tokens"] += len(candidate.response_ids)
            records.append(
                {
                    **{name: prompt[name] for name in ("split", "prompt", "messages", "context", "prompt_ids")},
                    "id": f"{prompt['id']}#{index}",
                    "group": prompt["id"],
                    "index": index,
                    "source": candidate.source,
                    "writer": candidate.writer,
                    "response_ids": candidate.response_ids,
                    "response": opened + candidate.text,
                    "finished": finished,
                    "data_score": candidate.data_score,
                }
            )
        return records

    def _text(self, ids: list[int]) -> str:
        return decode_response(self.tokenizer, ids, self.stops)


def _quotas(settings: Responses) -> dict[str, int]:
    """Responses that a group keeps from each source, sources without any left out."""
    if settings.mixture is None:
        return {settings.source: settings.n}
    return {source: quota for source in SOURCES if (quota := getattr(settings.mixture, source))}


def _total(shards: list[Path]) -> dict[str, int]:
    """Sums over the shards, in whole numbers; generated_tokens_per_second is that of one process."""
    total: Counter[str] = Counter()
    for shard in shards:
        total.update(read_metadata(shard, _COUNTS))
    names = [f"groups_{split}" for split in SPLITS]
    names += ["groups_dropped", "duplicates_dropped", "empty_dropped"]
    names += ["responses_not_rendered"] if total["responses_not_rendered"] else []
    names += [f"responses_from_{source}" for source in SOURCES if total[f"responses_from_{source}"]]
    names += sorted(name for name in total if name.startswith(_BY))
    names += ["responses_cut", "response_tokens"]
    counts = {name: total[name] for name in names}
    if total["generated_tokens"]:
        seconds = max(total["generation_ms"], 1) / 1000
        counts["generated_tokens"] = total["generated_tokens"]
        counts["generation_seconds"] = round(seconds)
        counts["generated_tokens_per_second"] = round(total["generated_tokens"] / seconds)
    return counts


def _check_left(counts: dict[str, int], settings: Responses) -> None:
    for split in SPLITS:
        if not counts[f"groups_{split}"]:
            raise UserError(
                f"responses: no {split} prompt has {min(settings.n, 2)} different responses "
                f"({counts['duplicates_dropped']} were duplicates, {counts['empty_dropped']} empty); "
                "raise responses.temperature or responses.candidates, or fix the data"
            )


def _say(counts: dict[str, int], settings: Responses) -> None:
    """One line on the console, and a warning where responses were cut."""
    sources = {source: counts.get(f"responses_from_{source}", 0) for source in SOURCES}
    responses = sum(sources.values())
    parts = [f"{counts['groups_train'] + counts['groups_heldout']:,} prompts with {responses:,} responses"]
    parts += [f"{number:,} from the {source}" for source, number in sources.items() if number]
    parts += [f"{counts[name]:,} by {name.removeprefix(_BY)}" for name in counts if name.startswith(_BY)]
    if settings.n > 1:
        parts.append(f"{counts['duplicates_dropped']:,} duplicates and {counts['empty_dropped']:,} empty dropped")
        parts.append(f"{counts['groups_dropped']:,} prompts dropped with fewer than 2 different responses")
    if "generated_tokens" in counts:
        parts.append(f"{counts['generated_tokens_per_second']:,} tokens/s per process")
    console.print(f"respond: {', '.join(parts)}", soft_wrap=True)
    if lost := counts.get("responses_not_rendered"):
        console.print(f"[yellow]{lost:,} responses skipped: the student's chat template cannot render them[/yellow]")
    if cut := counts["responses_cut"]:
        limit = settings.max_new_tokens
        console.print(f"[yellow]{cut:,} of {responses:,} responses were truncated at max_new_tokens = {limit}[/yellow]")


def _shard(work: Path, number: int) -> Path:
    return work / f"shard-{number:05d}.parquet"
