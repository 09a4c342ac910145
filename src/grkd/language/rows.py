"""What a language model is trained on: groups of responses, with the signal that a method asks for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from grkd.console import console
from grkd.data.language import Group
from grkd.errors import UserError
from grkd.language.context import LanguageContext
from grkd.language.crossed import crossed_rows, live_crossed_rows
from grkd.language.examples import SPLITS
from grkd.language.fresh import fresh_groups, method_panel
from grkd.language.respond import read_records
from grkd.language.self_teacher import ShownPrompts
from grkd.language.several import live_teachers, pooled_model, pooled_scores
from grkd.objectives import Objective
from grkd.recipe import Method, SelfTeacher
from grkd.run.folder import RunFolder
from grkd.teacher.cached_teacher import DenseScores
from grkd.teacher.signal import HiddenCache, TeacherHead
from grkd.teacher.stored_scores import TopKScores
from grkd.training import LanguageRows
from grkd.training.fresh_groups import orders
from grkd.training.groups_of_responses import chosen
from grkd.training.on_policy import Sampler, on_policy_sampler
from grkd.training.shown_rows import ShownRows
from grkd.training.teacher_ahead import learns_tokens
from grkd.training.vllm_sampler import VllmSampler


def language_rows(
    context: LanguageContext, groups: Sequence[Group], *, teacher: bool = True, objective: Objective | None = None
) -> LanguageRows:
    """Rows for these groups, with the teacher's signal (none if `teacher` is False) as the objective needs it.

    The teacher runs in every step if the score stage has not cached all their responses, and for on-policy methods,
    whose new responses nothing else knows.
    """
    # Without an objective, responses are measured; those batches are padded.
    packed = None if objective is None else context.recipe.training.tokens_per_batch
    common = {**_common(context, objective), "tokens_per_batch": packed}
    on_policy = objective is not None and objective.on_policy > 0
    if objective is not None and not on_policy:
        common["share_prompts"] = any(len(chosen(group, objective.trains_on).items) > 1 for group in groups)
    if not teacher:
        return LanguageRows(**common)
    if context.models.crosses:
        # What is measured is the shared tokens, whatever a method reads.
        across = "shared" if objective is None else objective.across_vocabularies
        assert across is not None
        return crossed_rows(context, groups, across, common, quiet=objective is None)
    if (ranks := context.models.cached) is not None:
        rows = LanguageRows(**common, stored=DenseScores(ranks) if objective is None else None)
        if objective is not None:
            rows.ranks, rows.pairs_of_ranks = ranks, objective.takes_votes_on_rows
        return rows
    if context.models.served is not None and not context.teachers:
        return LanguageRows(**common, stored=TopKScores(context.run.path / "score" / "top_k"))
    if context.teachers and not on_policy:
        return LanguageRows(**common, stored=pooled_scores(context))
    if context.teachers:
        pooled = pooled_model(context, live_teachers(context))
        return LanguageRows(**common, teacher=pooled, sampler=_sampler(context, None))
    cache, head = HiddenCache(context.run.path / "score" / "hidden"), context.run.path / "score" / "head.safetensors"
    if on_policy or not all(item.id in cache for group in groups for item in group.items):
        live = context.models.teacher()
        sampler = _sampler(context, live) if on_policy else None
        if isinstance(context.recipe.teacher, SelfTeacher):
            return _self_taught_rows(context, **{**common, "tokens_per_batch": None}, teacher=live, sampler=sampler)
        rows = LanguageRows(**common, teacher=live, sampler=sampler)
        if on_policy and objective is not None:
            rows.kept = kept_hidden(context, rows, groups, objective)
        return rows
    if objective is not None:
        cache.hold()
    return LanguageRows(**common, cache=cache, head=TeacherHead.load(head))


def kept_hidden(
    context: LanguageContext, rows: LanguageRows, groups: Sequence[Group], objective: Objective
) -> HiddenCache | None:
    """The live teacher's hidden states of the groups' stored responses, if a method learns their tokens from it.

    None if the score stage has not kept all of them: the teacher then computes them in every step.
    """
    if rows.teacher is None or rows.teacher_head() is None or not learns_tokens(rows, objective):
        return None
    cache = HiddenCache(context.run.path / "score" / "hidden")
    if rows.fresh_share(objective) >= 1 or not all(item.id in cache for group in groups for item in group.items):
        return None
    cache.hold()
    return cache


def rows_of_fresh_groups(
    context: LanguageContext, method: Method, objective: Objective, work: Path, groups: Sequence[Group]
) -> LanguageRows:
    """Rows of groups that the student samples in training; a teacher runs if the method or a ranker needs it.

    groups: those that are stored, of which the method may learn from a share. Of several teachers each is asked by
    rankers, and tokens are learnt from all as one.
    """
    by_token = objective.needs_teacher and "row" in objective.levels
    asked = orders(objective) and "teacher" in method_panel(context.recipe, method).needs
    several: dict[str, Any] = {}
    if context.teachers:
        several = live_teachers(context) if by_token or asked else {}
        teacher: Any = pooled_model(context, several) if by_token else None
    else:
        in_process = by_token or (asked and context.models.served is None) or objective.teacher_mixed_in
        teacher = context.models.teacher() if in_process else None
    common = _common(context, objective)
    common["sampler"] = _sampler(context, teacher)
    common["fresh"] = fresh_groups(context, method, objective, work, teacher=teacher, several=several)
    if by_token and context.models.crosses:
        return live_crossed_rows(context, objective, common, teacher)
    if by_token and isinstance(context.recipe.teacher, SelfTeacher):
        return _self_taught_rows(context, **common, teacher=teacher)
    # Of another vocabulary: rankers ask it about text.
    common["teacher"] = teacher if context.models.teacher_tokenizer is None else None
    rows = LanguageRows(**common, tokens_per_batch=context.recipe.training.tokens_per_batch)
    rows.kept = kept_hidden(context, rows, groups, objective)
    return rows


def _self_taught_rows(context: LanguageContext, **options: Any) -> ShownRows:
    """Rows of the run's groups with `teacher`, the student before training, behind prompts of its own in every step.

    Raises UserError for a prompt that leaves no room for a response with what the teacher is shown.
    """
    prompts, room = ShownPrompts(context), context.recipe.responses.max_new_tokens
    records = {record["group"]: record for split in SPLITS for record in read_records(context.run, split)}
    shown = {group: prompts(record, group, response_tokens=room) for group, record in records.items()}
    return ShownRows(shown=lambda group: shown[group.id], **options)


def _common(context: LanguageContext, objective: Objective | None) -> dict[str, Any]:
    return {
        "pad_token_id": context.models.numbers["pad_token_id"],
        "vocabulary": context.models.numbers["vocabulary"],
        "trains_on": "all" if objective is None else objective.trains_on,
        "token_order": "log_probs" if objective is None else context.recipe.score.token_order,
    }


def training_groups(run: RunFolder, method: Method, objective: Objective, groups: Sequence[Group]) -> list[Group]:
    """The groups that a method can learn from, those left out counted on the console. Raises UserError if all are."""
    kept = learnable_groups(method, objective, groups)
    without = len(groups) - len(kept)
    if without and run.ranks.is_main_process:
        console.print(f"[yellow]{method.label}: nothing to learn from {without} of {len(groups)} groups[/yellow]")
    return kept


def learnable_groups(method: Method, objective: Objective, groups: Sequence[Group]) -> list[Group]:
    """The groups that a method can learn from. Raises UserError if there are none.

    Left out: groups without a response of the kind that it is trained on; for methods that
    compare responses alone, groups whose responses have the same score throughout.
    """
    kept = [group for group in groups if chosen(group, objective.trains_on).items]
    by_order = objective.trains_on in ("best", "ends")  # nothing is chosen from a group without scores
    if not kept and not by_order:
        raise UserError(
            f"methods: {method.label} is trained on responses from the {objective.trains_on}, and there are none; "
            f"set responses.source to {objective.trains_on}, or to a mixture with it"
        )
    if objective.levels == ("response",) or not kept:
        compared = [group for group in kept if group.has_pair]
        if not compared:
            raise UserError(
                f"methods: {method.label} compares the responses of a prompt, and no prompt has two with different "
                "scores; set responses.n to 2 or more, or score.rankers to others (how often each "
                "tied or gave no score: score/rankers.json)"
            )
        kept = compared
    return kept


def _sampler(context: LanguageContext, teacher: nn.Module | None) -> Sampler:
    numbers = {name: context.models.numbers[name] for name in ("stop_ids", "pad_token_id", "vocabulary")}
    settings = context.recipe.responses
    if settings.use_vllm:
        longest = context.recipe.data.max_prompt_tokens + settings.max_new_tokens
        del numbers["pad_token_id"]
        return VllmSampler(max_new_tokens=settings.max_new_tokens, longest=longest, **numbers)
    return on_policy_sampler(teacher, batch_size=settings.batch_size, max_new_tokens=settings.max_new_tokens, **numbers)
