"""What the rank task measures on: held-out responses of a run folder, prompts with completions, groups of responses."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from grkd.answers.identity import digest_in_manifest, model_digest
from grkd.data.conversation import check_text
from grkd.data.language import Item
from grkd.data.prompts import Example
from grkd.data.sources import read_examples
from grkd.data.tables import read_table
from grkd.errors import UserError
from grkd.files import parse_json, read_json, read_text
from grkd.teacher.cached_teacher import DenseScores, token_measures
from grkd.teacher.rank_cache import RankCache
from grkd.teacher.stored_scores import StoredScores, TopKScores

_GRADED = ("question_id", "output", "gpt4_score")


@dataclass(frozen=True, kw_only=True)
class ResponseGroup:
    """A prompt, responses to it, and a grade of each, higher is better (None: there are no grades)."""

    prompt: Example
    responses: tuple[str, ...]
    grades: tuple[float, ...] | None

    @property
    def answers(self) -> list[Example]:
        """The prompt with each response as its completion."""
        return [replace(self.prompt, completion=text) for text in self.responses]


@dataclass(frozen=True, kw_only=True)
class RunSource:
    """Held-out responses of a run as token ids, what belongs to its tokenizer, and where its teacher is.

    groups: the responses to each prompt, by the prompt's id. By item id: log_probs, the teacher's mean log-probability
    of a response, nats per token; scores, what orders them: the teacher's rewards where the score stage left them (then
    rewarded), else the log_probs. cache: the score stage's folder with the teacher's hidden states, or None. stored:
    scores of tokens from a served teacher or a cache of ranks, or None. teacher: a folder or hub name, None if the
    recipe names none. elsewhere: it is a server or a cache of ranks, or there are several. folder: the run's.
    """

    folder: Path
    groups: dict[str, list[Item]]
    log_probs: dict[str, float]
    scores: dict[str, float]
    rewarded: bool
    tokenizer: Path
    pad_token_id: int
    vocabulary: int
    cache: Path | None
    stored: StoredScores | None
    teacher: str | None
    elsewhere: bool

    def scored_by(self) -> str | None:
        """model_digest of the teacher that left log_probs, scores and cache, whatever its folder holds by now."""
        manifest = self.folder / "prepare" / "manifest.json"
        if self.teacher is None:
            return None
        inputs = read_json(manifest).get("inputs", {}) if manifest.is_file() else {}
        given = inputs.get("teacher")
        content = given.get("model") if isinstance(given, dict) else None  # several teachers: a list
        if content is None or Path(self.teacher).is_relative_to(self.folder):  # saved by the run itself
            return model_digest(self.teacher)
        return digest_in_manifest(self.teacher, content)


def live_teacher(source: Path, named: str | None) -> str | None:
    """The teacher that the rank task loads: the one named, else a run's; None if there is none or it is cached."""
    if named is not None or not source.is_dir():
        return named
    return None if _cache(source / "score") else _teacher_of(source)


def read_run(folder: Path, *, limit: int | None) -> RunSource:
    """The held-out part of a run folder that has been through its score stage; the first `limit` prompts.

    Raises UserError if a stage is missing, nothing is held out, or a response has no score.
    """
    shards = sorted((folder / "respond").glob("shard-*.parquet"))
    numbers, score = folder / "prepare" / "tokens.json", folder / "score"
    if not shards or not numbers.is_file() or not score.is_dir():
        raise UserError(f"{folder}: no finished prepare, respond and score stages in it; give a run that was scored")
    groups = dict(list(_heldout(shards).items())[:limit])
    if not groups:
        raise UserError(f"{folder}: its respond stage has no held-out response")
    scored: list[dict[str, Any]] = [
        row
        for path in sorted(score.glob("scores-*.parquet"))
        for row in read_table(path, needed=("id", "teacher_mean_log_prob_nats"), made_by="that recipe")
    ]
    known = {row["id"]: row["teacher_mean_log_prob_nats"] for row in scored}
    log_probs: dict[str, float] = {name: value for name, value in known.items() if value is not None}
    rewards: dict[str, Any] = {row["id"]: row.get("teacher_reward") for row in scored}
    ids = [item.id for items in groups.values() for item in items]
    unscored = next((name for name in ids if name not in known), None)
    if unscored is not None:
        raise UserError(f"{score}: no score of the response {unscored!r}; run the score stage again")
    ordered = {name: rewards[name] for name in ids if rewards[name] is not None}  # others have no place in the order
    found = read_json(numbers)
    if not isinstance(found, dict) or not all(type(found.get(key)) is int for key in ("pad_token_id", "vocabulary")):
        raise UserError(f"{numbers}: damaged; delete the folder {numbers.parent} and run that recipe again")
    return RunSource(
        folder=folder,
        groups=groups,
        log_probs=log_probs,
        scores=ordered or log_probs,
        rewarded=bool(ordered),
        tokenizer=folder / "prepare" / "tokenizer",
        pad_token_id=found["pad_token_id"],
        vocabulary=found["vocabulary"],
        cache=_cache(score),
        stored=_stored(folder),
        teacher=_teacher_of(folder),
        elsewhere=_teacher_of(folder) is None and bool({"several", "url", "cache"} & _teacher_in(folder).keys()),
    )


def _cache(score: Path) -> Path | None:
    return score if (score / "head.safetensors").is_file() and (score / "hidden").is_dir() else None


def _heldout(shards: Sequence[Path]) -> dict[str, list[Item]]:
    """The held-out responses by their prompt's id, in the order of the data."""
    groups: dict[str, list[Item]] = {}
    for shard in shards:
        needed = ("id", "group", "split", "prompt_ids", "response_ids")
        for record in read_table(shard, list(needed), made_by="that recipe"):
            if record["split"] != "heldout":
                continue
            item = Item(id=record["id"], prompt_ids=record["prompt_ids"], response_ids=record["response_ids"])
            groups.setdefault(record["group"], []).append(item)
    return groups


def read_prompts(path: Path, *, limit: int | None) -> tuple[list[Example], list[ResponseGroup]]:
    """A file of examples with completions, or of groups; the other list is empty.

    A group's record is a prompt or messages, "responses": [text, ...] and, where there are grades, "grades": [number,
    ...]; a file holds one kind only. Raises UserError, with the line or id, for anything else.
    """
    examples = read_examples(path, limit=limit, groups=False, turns="last")
    kinds = {"responses" in example.columns for example in examples}
    if kinds == {True, False}:
        raise UserError(f'{path}: some records have "responses" and some have not; give one kind in a file')
    if kinds == {True}:
        return [], [_group(example, example.columns, where=f"{path}, id {example.id}") for example in examples]
    for example in examples:
        if example.completion is None:
            raise UserError(
                f'{path}, id {example.id}: no completion; rank needs "completion" or "responses" in each record'
            )
    return examples, []


def read_graded(path: Path, *, limit: int | None) -> list[ResponseGroup]:
    """Groups of a Parquet file with question_id, output and gpt4_score; prompts from question.jsonl beside it.

    Rows without a grade (null, or below 0) or without text are left out. `limit`: the first so many prompts, in the
    order of the file.
    Raises UserError for missing columns, files or questions.
    """
    questions = path.with_name("question.jsonl")
    try:
        table = pq.read_table(path, columns=list(_GRADED))
        lines = [line for line in read_text(questions, "the questions of the graded file").split("\n") if line.strip()]
        prompts = {row["question_id"]: check_text(row["turns"][0], "turns", "") for row in map(parse_json, lines)}
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path}: no such file; rank needs {path.name} and question.jsonl") from None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        if isinstance(error, UserError) and str(error).startswith(str(questions)):
            raise
        raise UserError(
            f"{path}: cannot be read as graded responses ({' '.join(str(error).split())}); it needs the columns "
            f"{', '.join(_GRADED)}, and question.jsonl beside it question_id and turns"
        ) from None
    grouped: dict[str, list[tuple[str, float]]] = {}
    for row in table.to_pylist():
        grade = row["gpt4_score"]
        if grade is not None and math.isfinite(grade) and grade >= 0 and (row["output"] or "").strip():
            grouped.setdefault(row["question_id"], []).append((row["output"], grade))
    missing = next((name for name in grouped if name not in prompts), None)
    if missing is not None:
        raise UserError(f"{questions}: no question {missing!r}, which {path.name} has responses to")
    return [
        ResponseGroup(
            prompt=Example(id=str(name), prompt=prompts[name]),
            responses=tuple(text for text, _ in rows),
            grades=tuple(grade for _, grade in rows),
        )
        for name, rows in list(grouped.items())[:limit]
    ]


def _teacher_of(folder: Path) -> str | None:
    """The teacher that the prepare stage saved, else the one that the recipe names."""
    saved = folder / "prepare" / "teacher"
    if saved.is_dir():
        return str(saved)
    name = _teacher_in(folder).get("model")
    return str(name) if name else None


def _teacher_in(folder: Path) -> dict[str, Any]:
    """`teacher` of the run's recipe, a list of them under "several"; empty if there is none."""
    recipe = folder / "recipe.yaml"
    plain = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None
    teacher = plain.get("teacher") if isinstance(plain, dict) else None
    return {"several": teacher} if isinstance(teacher, list) else teacher or {}


def _stored(folder: Path) -> StoredScores | None:
    if (folder / "score" / "top_k").is_dir():
        return TopKScores(folder / "score" / "top_k")
    cache = _teacher_in(folder).get("cache")
    if cache is None:
        return None
    found = RankCache(Path(cache))
    return DenseScores(found) if token_measures(found) else None


def _group(example: Example, value: dict[str, Any], *, where: str) -> ResponseGroup:
    responses, grades = value["responses"], value.get("grades")
    if not isinstance(responses, list) or len(responses) < 2:
        raise UserError(f"{where}: responses must be a list of two or more texts")
    if not all(isinstance(text, str) and text.strip() for text in responses):
        raise UserError(f"{where}: every response must be text and not empty")
    if grades is not None:
        numbers = isinstance(grades, list) and all(
            isinstance(grade, int | float) and not isinstance(grade, bool) and math.isfinite(grade) and grade >= 0
            for grade in grades
        )
        if not numbers or len(grades) != len(responses):
            raise UserError(
                f"{where}: grades must be one number of 0 or more for each of the {len(responses)} responses"
            )
    return ResponseGroup(
        prompt=example, responses=tuple(responses), grades=None if grades is None else tuple(map(float, grades))
    )
