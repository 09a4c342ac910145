"""A cache of ranks from a recipe: its prompts and responses, and the teacher's order at every token."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from grkd import objectives
from grkd.console import console
from grkd.data.language import Group, Item
from grkd.errors import UserError
from grkd.files import digest
from grkd.language.context import LanguageContext
from grkd.language.examples import SPLITS
from grkd.language.prepare import prepare
from grkd.language.respond import by_group, read_records, respond
from grkd.language.served import named, served_teacher
from grkd.models.weights_digest import weights_digest
from grkd.ranks import from_main, wait
from grkd.recipe import LanguageRecipe, Model, ServedModel, Teacher
from grkd.run.folder import RunFolder
from grkd.served import ServedTeacher
from grkd.teacher.rank_build import fill, fill_by, with_share
from grkd.teacher.rank_cache import HEADER, Origin, RankCache, content_key, vocabulary_digest
from grkd.teacher.rank_codec import Choose, RankCodec
from grkd.teacher.rank_draws import candidates_of_top
from grkd.training.cached_ranks import soft_temperatures


def build_cache(
    recipe: LanguageRecipe, folder: Path, *, entries: int, choose: Choose, log_probs: bool, temperature: float | None
) -> RankCache:
    """Run the recipe's stages up to its responses, and write the teacher's order of every token of them to `folder`.

    temperature: of the soft targets; None: that of the recipe's methods, 1 if none has soft targets.
    A killed build goes on where it was. Raises UserError for methods of several temperatures, a teacher of another
    vocabulary or without scores of tokens, a folder that was made otherwise, and for what a served teacher's top k
    cannot give.
    """
    if temperature is None:
        temperature = _temperature_of(recipe) if log_probs else 1.0
    _check_teacher(recipe.teacher, choose=choose, temperature=temperature)
    run = RunFolder(Path(recipe.output))
    with run.locked():
        context = LanguageContext.open(recipe, run)
        models = context.models
        prepare(context)
        codec = RankCodec(vocabulary=models.numbers["vocabulary"], entries=entries, choose=choose, log_probs=log_probs)
        respond(context)
        groups = [group for split in SPLITS for group in _groups(run, split)]
        if models.teacher_tokenizer is not None:
            raise UserError("a cache of ranks holds the student's tokens, and the teacher has another vocabulary")
        teacher = models.teacher() if models.served is None else served_teacher(context, "cache")
        keys = sorted(content_key(item) for group in groups for item in group.items)
        origin = Origin(
            teacher=named(recipe.teacher),
            weights=teacher.digest if isinstance(teacher, ServedTeacher) else weights_digest(teacher),
            vocabulary=vocabulary_digest(models.tokenizer),
            template=digest(models.tokenizer.chat_template),
            prompts=digest(keys),
            temperature=temperature,
            seed=recipe.seeds[0],
        )
        if not isinstance(teacher, ServedTeacher) and not from_main(lambda: (folder / HEADER).exists()):
            batch_size = recipe.score.batch_size
            codec = with_share(codec, teacher, groups, temperature=temperature, batch_size=batch_size)
        if run.ranks.is_main_process:
            RankCache.begun(folder, codec, origin)
        wait("cache of ranks")
        cache = RankCache.begun(folder, codec, origin)
        if isinstance(teacher, ServedTeacher):
            _fill_from_server(cache, teacher, groups)
        else:
            fill(cache, teacher, groups, batch_size=recipe.score.batch_size)
        cache = RankCache(folder, writing=True)  # with the shards of the other ranks
        if run.ranks.is_main_process:
            cache.finish()
        wait("cache of ranks")
    console.print(f"cache of ranks: {cache.header.get('tokens', 0):,} tokens in {folder}")
    return cache


def _temperature_of(recipe: LanguageRecipe) -> float:
    wanted: dict[float, str] = {}
    for method in recipe.methods:
        for temperature in soft_temperatures(objectives.load(method.name, **method.options)):
            wanted.setdefault(temperature, method.label)
    if len(wanted) > 1:
        listed = " and ".join(f"{label} {temperature:g}" for temperature, label in wanted.items())
        raise UserError(
            f"methods: a cache has one temperature of soft targets, and theirs are {listed}; set them alike (kd: "
            "temperature, grkd: soft_target.temperature), or give --temperature"
        )
    return next(iter(wanted), 1.0)


def _check_teacher(teacher: Teacher, *, choose: Choose, temperature: float) -> None:
    """Raises UserError for a teacher that gives no scores of tokens, and for what a server's top k cannot give."""
    if isinstance(teacher, ServedModel):
        if not teacher.log_probs:
            raise UserError("teacher.log_probs: a cache of ranks holds orders of tokens, which need log-probabilities")
        if choose == "sample":
            raise UserError(
                "--choose sample: a server gives its likeliest tokens alone, each for certain and all others never, so "
                "that no sample with known inclusion probabilities can be drawn; use --choose top"
            )
        if temperature != 1:
            raise UserError(
                f"temperature {temperature:g} (--temperature, or the methods' own): a server gives those "
                "at 1, and the others' share at another one is not known from its likeliest tokens; set it to 1"
            )
    elif not isinstance(teacher, Model):
        raise UserError("a cache of ranks is filled from teacher: {model: ...} or {url: ..., served_model: ...}")


def _fill_from_server(cache: RankCache, teacher: ServedTeacher, groups: Sequence[Group]) -> None:
    """From the likeliest tokens that a server gives. Answers are kept as they come until their shard is written."""
    teacher.top_k = cache.codec.entries

    def store(number: int) -> Path:
        return cache.folder / f"asked-{number:06d}.jsonl"

    def asked(items: Sequence[Item], number: int) -> tuple[torch.Tensor, list[float]]:
        means, rows = teacher.scored(items, keep={item.id for item in items}, store=store(number))
        ids, log_probs = (torch.cat([rows[item.id][place] for item in items]) for place in (0, 1))
        return cache.codec.encode(candidates_of_top(ids.long(), log_probs, cache.codec)), means

    fill_by(cache, groups, asked, written=lambda number: store(number).unlink(missing_ok=True))


def _groups(run: RunFolder, split: str) -> Iterator[Group]:
    for name, records in by_group(read_records(run, split)).items():
        yield Group(
            id=name,
            items=tuple(Item(each["id"], each["prompt_ids"], each["response_ids"]) for each in records),
            teacher_scores=(0.0,) * len(records),
            sources=tuple(each["source"] for each in records),
        )
