"""Tokens of a GRKDTrainer's teacher of another vocabulary: the rows that they make with the student's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grkd.console import console
from grkd.data.chat import stop_token_ids
from grkd.data.language import Group, vocabulary_size
from grkd.errors import UserError
from grkd.models.load import context_length
from grkd.models.pooled import PooledModel
from grkd.objectives import Objective
from grkd.ranks import ranks
from grkd.teacher.pooled_scores import PooledScores
from grkd.teacher.stored_scores import StoredScores
from grkd.training.cross_rows import CrossRows
from grkd.training.grkd_config import GRKDConfig
from grkd.training.on_policy import Sampler
from grkd.training.own_tokens import LiveScores, OwnTokens
from grkd.training.record_groups import RecordEncoder
from grkd.training.served_side import ServedScores
from grkd.training.teacher_side import TeacherNeeds, TeacherSide


def crosses(sides: Sequence[TeacherSide], needs: TeacherNeeds) -> bool:
    """Whether tokens are learnt from a teacher of another vocabulary."""
    return needs.tokens is not None and any(not side.shared for side in sides)


def check_crossing(sides: Sequence[TeacherSide], args: GRKDConfig, objective: Objective, compute_metrics: Any) -> None:
    """Raises UserError for what cannot be learnt or measured where two tokenisations meet."""
    first = sides[0].tokenizer.get_vocab()
    if any(side.shared or side.tokenizer.get_vocab() != first for side in sides):
        raise UserError(
            "teacher_model: tokens are learnt from teachers of one vocabulary, and these have several; give teachers "
            "of one, or a method that compares responses"
        )
    if any(side.given.only for side in sides):
        raise UserError("teacher_model: only routes no tokens of another vocabulary; give one teacher")
    if len({side.served is None for side in sides}) > 1:
        raise UserError("teacher_model: several teachers of tokens must be all servers or all local models")
    if compute_metrics is not None:
        raise UserError("compute_metrics reads tokens of one vocabulary, the teacher has another; remove it")
    if sides[0].served is not None and objective.levels != ("row",):
        raise UserError(f"{args.method} asks a served teacher of another vocabulary about stored tokens alone")


def crossed_rows(
    sides: Sequence[TeacherSide],
    encode: RecordEncoder,
    args: GRKDConfig,
    objective: Objective,
    *,
    student_vocabulary: int,
    sampler: Sampler | None,
) -> CrossRows:
    """Rows of the student's tokens beside those of its teachers, which share one vocabulary."""
    assert objective.across_vocabularies is not None
    tokenizer, configs = sides[0].tokenizer, [getattr(side.model, "generation_config", None) for side in sides]
    stops = stop_token_ids(tokenizer, configs[0])
    contexts = [context_length(side.model) for side in sides if side.model is not None]
    own = OwnTokens(
        encode.tokenizer,
        tokenizer,
        stop_ids=(encode.stop_ids, stops),
        context=min((each for each in contexts if each is not None), default=None),
    )
    foreign: StoredScores
    if sides[0].served is None:
        models, weights = [side.model for side in sides], [side.given.weight for side in sides]
        pooled = models[0] if len(models) == 1 else PooledModel(models, weights, vocabulary=vocabulary_size(tokenizer))
        foreign = LiveScores(pooled, pad_token_id=stops[0])
    else:
        foreign = served_scores(sides, args)
    return CrossRows(
        across=objective.across_vocabularies,
        crossing=own.crossing(),
        own=own,
        foreign=foreign,
        vocabulary=student_vocabulary,
        pad_token_id=encode.pad_token_id,
        trains_on=objective.trains_on,
        sampler=sampler,
    )


def served_scores(sides: Sequence[TeacherSide], args: GRKDConfig) -> StoredScores:
    """The servers' scores of tokens; of several servers, pooled."""
    found: list[tuple[StoredScores, float]] = []
    for side in sides:
        assert side.served is not None
        folder = Path(str(args.output_dir)) / "teacher" / (side.given.label or "answers")
        found.append((ServedScores(side.served, folder, only=side.given.only), side.given.weight))
    return found[0][0] if len(found) == 1 else PooledScores(found)


def keep_own_tokens(rows: CrossRows, groups: Sequence[Group]) -> None:
    """Make the teacher's tokens of these groups, ask servers about them, and say how many of the student's meet one.

    Raises UserError for text over the teacher's context.
    """
    assert isinstance(rows.own, OwnTokens)
    rows.own.keep(groups)
    pairs = [pair for group in groups for pair in zip(group.items, rows.own(group), strict=True)]
    stored = rows.foreign
    for each in [scores for scores, _ in stored.teachers] if isinstance(stored, PooledScores) else [stored]:
        if isinstance(each, ServedScores):
            each.ask_items([own for _, own in pairs])
    if ranks().is_main_process:
        met = sum(len(rows.crossing.meeting(item.response_ids, own.response_ids).student) for item, own in pairs)
        console.print(
            f"teacher with another vocabulary: it predicts at {met / sum(len(i.response_ids) for i, _ in pairs):.0%} "
            f"of the student's tokens; {len(rows.crossing.student_ids):,} tokens are shared",
            soft_wrap=True,
        )
