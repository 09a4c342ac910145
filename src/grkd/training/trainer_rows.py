"""The rows of a GRKDTrainer, and a teacher that shares no weights with its student."""

from typing import Any

from torch import nn

from grkd.console import console
from grkd.data.language import check_head_size
from grkd.models.adapters import apart, shares_weights
from grkd.objectives import Objective
from grkd.training.grkd_config import GRKDConfig
from grkd.training.language_rows import LanguageRows
from grkd.training.on_policy import on_policy_sampler
from grkd.training.record_groups import RecordEncoder
from grkd.training.teacher_side import TeacherNeeds, TeacherSide


def apart_from(student: nn.Module, side: TeacherSide | None) -> TeacherSide | None:
    """The teacher, as a frozen copy if it shares weights with the student."""
    if side is None or not shares_weights(side.model, student):
        return side
    console.print("teacher_model shares weights with the student: a frozen copy of it teaches")
    return side.replaced(apart(side.model, student))  # before adapters are put into the student


def rows_of(
    side: TeacherSide | None,
    needs: TeacherNeeds,
    encode: RecordEncoder,
    args: GRKDConfig,
    objective: Objective,
    *,
    samples: bool,
    student: Any,
) -> LanguageRows:
    """Rows with the teacher of tokens, which LanguageRows freezes, and the sampler of responses."""
    vocabulary = check_head_size(student, encode.tokenizer, role="student")
    shared = side is not None and side.shared and (needs.tokens is not None or needs.ranker)
    teacher = side.model if side is not None and shared else None
    sampler = on_policy_sampler(
        teacher,
        batch_size=args.sampling_batch_size,
        max_new_tokens=args.max_new_tokens,
        stop_ids=encode.stop_ids,
        pad_token_id=encode.pad_token_id,
        vocabulary=vocabulary,
    )
    return LanguageRows(
        pad_token_id=encode.pad_token_id,
        vocabulary=vocabulary,
        teacher=teacher,
        teacher_in_training=objective.needs_teacher,
        tokens_per_batch=args.tokens_per_batch,
        trains_on=objective.trains_on,
        sampler=sampler if samples else None,
    )
