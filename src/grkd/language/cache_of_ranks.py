"""A cache of ranks from a recipe: its prompts and responses, and the teacher's order at every token."""

from collections.abc import Iterator
from pathlib import Path

from grkd.console import console
from grkd.data.language import Group, Item
from grkd.errors import UserError
from grkd.files import digest
from grkd.language.context import LanguageContext
from grkd.language.examples import SPLITS
from grkd.language.prepare import prepare
from grkd.language.respond import read_records, respond
from grkd.models.weights_digest import weights_digest
from grkd.recipe import LanguageRecipe, Model
from grkd.run.folder import RunFolder
from grkd.teacher.rank_build import fill
from grkd.teacher.rank_cache import Origin, RankCache, content_key, vocabulary_digest
from grkd.teacher.rank_codec import Choose, RankCodec


def build_cache(
    recipe: LanguageRecipe, folder: Path, *, entries: int, choose: Choose, log_probs: bool, temperature: float
) -> RankCache:
    """Run the recipe's stages up to its responses, and write the teacher's order of every token of them to `folder`.

    A killed build goes on where it was. Raises UserError for a teacher of another vocabulary, and for a folder that was
    made otherwise.
    """
    if not isinstance(recipe.teacher, Model):
        raise UserError("a cache of ranks is filled from a teacher in memory; give teacher: {model: ...}")
    name = recipe.teacher.model
    run = RunFolder(Path(recipe.output))
    with run.locked():
        context = LanguageContext.open(recipe, run)
        prepare(context)
        respond(context)
        groups = [group for split in SPLITS for group in _groups(run, split)]
        models = context.models
        if models.teacher_tokenizer is not None:
            raise UserError("a cache of ranks holds the student's tokens, and the teacher has another vocabulary")
        teacher = models.teacher()
        codec = RankCodec(vocabulary=models.numbers["vocabulary"], entries=entries, choose=choose, log_probs=log_probs)
        keys = sorted(content_key(item) for group in groups for item in group.items)
        origin = Origin(
            teacher=name,
            weights=weights_digest(teacher),
            vocabulary=vocabulary_digest(models.tokenizer),
            template=digest(models.tokenizer.chat_template),
            prompts=digest(keys),
            temperature=temperature,
            seed=recipe.seeds[0],
        )
        if run.ranks.is_main_process:
            RankCache.begun(folder, codec, origin)
        run.ranks.wait_for_everyone()
        cache = RankCache.begun(folder, codec, origin)
        fill(cache, teacher, groups, batch_size=recipe.score.batch_size)
        cache = RankCache(folder, writing=True)  # with the shards of the other ranks
        if run.ranks.is_main_process:
            cache.finish()
        run.ranks.wait_for_everyone()
    console.print(f"cache of ranks: {cache.header.get('tokens', 0):,} tokens in {folder}")
    return cache


def _groups(run: RunFolder, split: str) -> Iterator[Group]:
    by_group: dict[str, list[tuple[Item, str]]] = {}
    for record in read_records(run, split):
        item = Item(id=record["id"], prompt_ids=record["prompt_ids"], response_ids=record["response_ids"])
        by_group.setdefault(record["group"], []).append((item, record["source"]))
    for name, items in by_group.items():
        yield Group(
            id=name,
            items=tuple(item for item, _ in items),
            teacher_scores=(0.0,) * len(items),
            sources=tuple(source for _, source in items),
        )
