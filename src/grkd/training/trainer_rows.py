"""The rows of a GRKDTrainer, and a teacher that shares no weights with its student."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from grkd.console import console
from grkd.data.language import check_head_size
from grkd.errors import UserError
from grkd.models.adapters import apart, shares_weights, trains_biases
from grkd.models.pooled import PooledModel
from grkd.objectives import Objective
from grkd.teacher.pooled_scores import PooledScores
from grkd.teacher.stored_scores import StoredScores
from grkd.teacher.turns import check_routes
from grkd.training.cross_rows import CrossRows
from grkd.training.crossed_side import crossed_rows, crosses, keep_own_tokens, served_scores
from grkd.training.fresh_groups import FreshGroups
from grkd.training.grkd_config import GRKDConfig
from grkd.training.language_rows import LanguageRows
from grkd.training.on_policy import Sampler, on_policy_sampler
from grkd.training.record_groups import RecordEncoder
from grkd.training.served_side import ServedScores
from grkd.training.teacher_side import TeacherNeeds, TeacherSide
from grkd.training.vllm_sampler import VllmSampler, check_use


def apart_from(student: nn.Module, side: TeacherSide) -> TeacherSide:
    """The teacher, as a frozen copy if it shares weights with the student."""
    if not shares_weights(side.model, student):
        return side
    biases = ", with the biases that the student's adapter has trained" if trains_biases(student) else ""
    console.print(f"teacher_model shares weights with the student: a frozen copy of it teaches{biases}", soft_wrap=True)
    return replace(side, model=apart(side.model, student))  # before adapters are put into the student


def rows_of(
    sides: Sequence[TeacherSide],
    needs: TeacherNeeds,
    encode: RecordEncoder,
    args: GRKDConfig,
    objective: Objective,
    *,
    samples: bool,
    student: Any,
) -> LanguageRows:
    """Rows with the teacher of tokens, which LanguageRows freezes, and the sampler of responses.

    Raises UserError for teachers that cannot serve a method that samples in training, or not together.
    """
    if args.use_vllm:
        check_use({args.method: objective}, lambda _: samples)
    vocabulary = check_head_size(student, encode.tokenizer, role="student")
    if crosses(sides, needs):
        sampler = _sampler(None, encode, args, vocabulary) if samples else None
        return crossed_rows(sides, encode, args, objective, student_vocabulary=vocabulary, sampler=sampler)
    stored: StoredScores | None = None
    if needs.tokens is not None and any(side.served is not None for side in sides):
        stored = _stored(sides, args, samples=samples)
        teacher = None
    else:
        teacher = _live(sides, needs, args, objective, vocabulary)
    return LanguageRows(
        pad_token_id=encode.pad_token_id,
        vocabulary=vocabulary,
        teacher=teacher,
        stored=stored,
        teacher_in_training=objective.needs_teacher,
        tokens_per_batch=args.tokens_per_batch,
        trains_on=objective.trains_on,
        sampler=_sampler(teacher, encode, args, vocabulary) if samples else None,
        token_order=args.token_order,
    )


def rows_of_scores(fresh: FreshGroups, encode: RecordEncoder, args: GRKDConfig, *, vocabulary: int) -> LanguageRows:
    """Rows of new responses for rankers alone: how a method that compares no responses is scored in evaluation."""
    sampler = _sampler(None, encode, args, vocabulary)
    return LanguageRows(pad_token_id=encode.pad_token_id, vocabulary=vocabulary, sampler=sampler, fresh=fresh)


def _sampler(teacher: Any, encode: RecordEncoder, args: GRKDConfig, vocabulary: int) -> Sampler:
    if args.use_vllm:
        longest = None if args.max_length is None else args.max_length + args.max_new_tokens
        return VllmSampler(
            max_new_tokens=args.max_new_tokens, stop_ids=encode.stop_ids, vocabulary=vocabulary, longest=longest
        )
    return on_policy_sampler(
        teacher,
        batch_size=args.sampling_batch_size,
        max_new_tokens=args.max_new_tokens,
        stop_ids=encode.stop_ids,
        pad_token_id=encode.pad_token_id,
        vocabulary=vocabulary,
    )


def ask_about(rows: Any, groups: Any) -> None:
    """Ask served teachers about the tokens of these groups, and write them in the tokens of another vocabulary."""
    for own in groups.values() if isinstance(groups, dict) else [groups]:
        if isinstance(own, list) and own and isinstance(rows, CrossRows):
            keep_own_tokens(rows, own)
        elif isinstance(own, list):
            check_routes(((group.id, group.columns or {}) for group in own), routes_of(rows), "teacher_model")
            for stored in _served(getattr(rows, "stored", None)):
                stored.ask(own)


def routes_of(rows: Any) -> list[Mapping[str, Any]]:
    """The column and value of the records that each teacher of tokens is asked about; one of them empty: all."""
    if isinstance(getattr(rows, "teacher", None), PooledModel):
        return list(rows.teacher.only)
    served = _served(getattr(rows, "stored", None))
    return [each.only for each in served] or [{}]


def check_token_order(args: GRKDConfig, objective: Objective, sides: Sequence[TeacherSide], *, crossing: bool) -> None:
    """Raises UserError for votes on tokens that nobody casts, or that the method does not count."""
    if args.token_order == "log_probs":
        return
    if len(sides) < 2 or crossing:
        raise UserError(
            f"token_order {args.token_order} is of several teachers of the student's vocabulary; give a list"
        )
    if not objective.takes_votes_on_rows:
        raise UserError(
            f"token_order {args.token_order}: {args.method} compares no pairs of tokens; use grkd, or remove it"
        )


def _served(stored: StoredScores | None) -> list[ServedScores]:
    if isinstance(stored, PooledScores):
        return [each for each, _ in stored.teachers if isinstance(each, ServedScores)]
    return [stored] if isinstance(stored, ServedScores) else []


def _stored(sides: Sequence[TeacherSide], args: GRKDConfig, *, samples: bool) -> StoredScores:
    """Scores of tokens by servers, asked before training."""
    if samples:
        raise UserError(
            f"{args.method} has the teacher score tokens of responses sampled in training, so it must be in this "
            "process; give teacher_model as a model"
        )
    if any(side.served is None for side in sides):
        raise UserError("teacher_model: several teachers of tokens must be all servers or all local models")
    return served_scores(sides, args)


def _live(
    sides: Sequence[TeacherSide], needs: TeacherNeeds, args: GRKDConfig, objective: Objective, vocabulary: int
) -> Any:
    """The model that scores tokens: the teacher, or several as one; None if nothing reads tokens' scores."""
    if len(sides) < 2:
        side = sides[0] if sides else None
        shared = side is not None and side.shared and (needs.tokens is not None or needs.ranker)
        return side.model if side is not None and shared else None
    if needs.tokens is None:
        return None
    if objective.teacher_mixed_in or args.tokens_per_batch is not None:
        what = "tokens_per_batch" if args.tokens_per_batch is not None else f"{args.method} samples from a mixture, and"
        raise UserError(f"teacher_model: {what} knows one teacher of tokens; give one")
    return PooledModel(
        [side.model for side in sides],
        [side.given.weight for side in sides],
        vocabulary=vocabulary,
        only=[side.given.only for side in sides],
    )
