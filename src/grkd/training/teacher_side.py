"""The teacher of a GRKDTrainer: what asks for it, whether it shares the student's vocabulary, where it comes from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from grkd.data.language import check_head_size, vocabulary_size
from grkd.errors import UserError
from grkd.models.attention import honour_softcap
from grkd.models.float8 import check_float8, to_float8
from grkd.models.load import check_same_vocabulary, load_language_model, load_tokenizer
from grkd.models.shard import is_sharded, shard
from grkd.served import ServedTeacher
from grkd.teacher.local import LocalTeacher
from grkd.training.given_teachers import Given
from grkd.training.grkd_config import GRKDConfig
from grkd.training.served_side import served_teacher


@dataclass(frozen=True, kw_only=True)
class TeacherNeeds:
    """Why a teacher is needed: a phrase for errors per use. tokens: its scores of the student's tokens; text: others.

    ranker: a ranker asks it. crosses: all that reads its tokens can read those of another vocabulary.
    """

    tokens: str | None = None
    text: str | None = None
    ranker: bool = False
    crosses: bool = False


@dataclass(frozen=True, kw_only=True)
class TeacherSide:
    """A teacher's model, or its server, and tokenizer. shared: it has the student's vocabulary. given: as by the user.

    model: None of a teacher behind a server.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    shared: bool
    given: Given = field(default_factory=lambda: Given(model=""))
    served: ServedTeacher | None = None

    def asked_by_rankers(self, device: torch.device, batch_size: int) -> LocalTeacher | ServedTeacher:
        """What rankers ask."""
        if self.served is not None:
            return self.served
        if not is_sharded(self.model):
            self.model.to(device).eval().requires_grad_(False)
        return LocalTeacher(
            self.model,
            self.tokenizer,
            vocabulary=vocabulary_size(self.tokenizer),
            batch_size=batch_size,
            reads_text=not self.shared,
        )


def teacher_sides(
    teachers: Sequence[Given],
    needs: TeacherNeeds,
    args: GRKDConfig,
    *,
    student_tokenizer: PreTrainedTokenizerBase,
    own_tokenizer: PreTrainedTokenizerBase | None,
) -> list[TeacherSide]:
    """The teachers, models in memory on the CPU if they are loaded here, servers opened; none if nothing needs one.

    own_tokenizer: the teacher's as it was given; None: by args.teacher_tokenizer_name_or_path, or by its model's name.
    Raises UserError if one is needed and not given, if tokens are needed and it has another vocabulary, and for a
    model whose tokenizer is not known.
    """
    reason = needs.tokens or needs.text
    if reason is None:
        return []
    if not teachers:
        raise UserError(f"{reason}; give teacher_model")
    if own_tokenizer is None and args.teacher_tokenizer_name_or_path is not None:
        own_tokenizer = load_tokenizer(args.teacher_tokenizer_name_or_path)
    if own_tokenizer is not None and len(teachers) > 1:
        raise UserError("teacher_processing_class belongs to one teacher; give each of several its own `tokenizer`")
    made = []
    for each in teachers:
        tokenizer = own_tokenizer or _tokenizer(each, student_tokenizer)
        if needs.tokens is not None:
            which = f"teacher_model {each.name}: " if len(teachers) > 1 else ""
            _check_vocabulary(tokenizer, student_tokenizer, needs, args.other_vocabulary, which)
        shared = tokenizer.get_vocab() == student_tokenizer.get_vocab()
        both = {"tokenizer": student_tokenizer if shared else tokenizer, "shared": shared, "given": each}
        if each.url is not None:
            place = Path(str(args.output_dir)) / "teacher" / (each.label or "answers")
            served = served_teacher(each, both["tokenizer"], shared=shared, folder=place)
            made.append(TeacherSide(model=None, served=served, **both))
            continue
        made.append(TeacherSide(model=_loaded(each.model, tokenizer, args), **both))
    return made


def _check_vocabulary(
    tokenizer: PreTrainedTokenizerBase,
    student_tokenizer: PreTrainedTokenizerBase,
    needs: TeacherNeeds,
    other_vocabulary: str,
    which: str,
) -> None:
    """Raises UserError for a teacher of another vocabulary whose tokens cannot be read, or are not meant to be.

    which: of several, the start of the line.
    """
    try:
        check_same_vocabulary(tokenizer, student_tokenizer)
    except UserError as error:
        if not needs.crosses:
            raise UserError(f"{which}{error}, since {needs.tokens}") from None
        if other_vocabulary != "tokens":
            raise UserError(f"{which}{error}, or set other_vocabulary='tokens' in GRKDConfig") from None


def _tokenizer(given: Given, student_tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    if given.tokenizer is not None:
        return load_tokenizer(given.tokenizer) if isinstance(given.tokenizer, str) else given.tokenizer
    return student_tokenizer if given.url is not None else tokenizer_of(given.model)


def _loaded(given: Any, tokenizer: PreTrainedTokenizerBase, args: GRKDConfig) -> Any:
    device, dtype = args.device, args.teacher_dtype
    kept = torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype == "float8":
        check_float8(device, "teacher_dtype")
    elif dtype != "auto":
        kept = getattr(torch, dtype)
    model: Any = load_language_model(given, dtype=kept) if isinstance(given, str) else given
    if isinstance(given, str) and dtype == "float8":
        model = to_float8(model)
    if isinstance(given, str) and args.teacher_placement != "whole":
        model = shard(model, device, offload=args.teacher_placement == "offloaded")
    check_head_size(model, tokenizer, role="teacher")
    return honour_softcap(model)


def needs_of(
    method: str, objective: Any, *, panel_needs: Sequence[str] | set[str] = (), metrics: Sequence[str] = ()
) -> TeacherNeeds:
    """What a method, its rankers and the metrics of evaluation ask of a teacher."""
    tokens = text = None
    able = objective.across_vocabularies is not None
    if objective.teacher_mixed_in:
        tokens = f"{method} samples from a mixture with the teacher"
    if objective.needs_teacher and "row" in objective.levels:
        tokens = f"{method} learns from a teacher's scores of tokens"
    if metrics and (tokens is None or able):
        tokens = f"eval_metrics {', '.join(metrics)} compare the student's tokens with a teacher's"
    if objective.trains_on == "teacher":
        text = f"{method} learns from a teacher's responses"
    if "teacher" in panel_needs:
        text = "a ranker asks the teacher"
    return TeacherNeeds(tokens=tokens, text=text, ranker="teacher" in panel_needs, crosses=able and not metrics)


def tokenizer_of(model: Any) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to a model, by its name. Raises UserError if it cannot be loaded."""
    name = model if isinstance(model, str) else str(getattr(model.config, "name_or_path", "") or "")
    if name:
        try:
            return load_tokenizer(name)
        except UserError as error:
            if isinstance(model, str):
                raise
            reason = f"its tokenizer cannot be loaded from {name!r} ({str(error)[:150]})"
    else:
        reason = "it carries no name to load its tokenizer by"
    raise UserError(f"teacher_model: {reason}; give teacher_processing_class, to be compared with the student's")
