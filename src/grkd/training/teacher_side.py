"""The teacher of a GRKDTrainer: what asks for it, whether it shares the student's vocabulary, where it comes from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from grkd.data.language import check_head_size, vocabulary_size
from grkd.errors import UserError
from grkd.models.attention import honour_softcap
from grkd.models.load import check_same_vocabulary, load_language_model, load_tokenizer
from grkd.models.shard import is_sharded, shard
from grkd.teacher.local import LocalTeacher


@dataclass(frozen=True, kw_only=True)
class TeacherNeeds:
    """Why a teacher is needed: a phrase for errors per use. tokens: its scores of the student's tokens; text: others.

    ranker: a ranker asks it.
    """

    tokens: str | None = None
    text: str | None = None
    ranker: bool = False


@dataclass(frozen=True, kw_only=True)
class TeacherSide:
    """A teacher's model and tokenizer. shared: it has the student's vocabulary."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    shared: bool

    def replaced(self, model: Any) -> "TeacherSide":
        """The same with another model."""
        return replace(self, model=model)

    def asked_by_rankers(self, device: torch.device, batch_size: int) -> LocalTeacher:
        """What rankers ask."""
        if not is_sharded(self.model):
            self.model.to(device).eval().requires_grad_(False)
        return LocalTeacher(
            self.model,
            self.tokenizer,
            vocabulary=vocabulary_size(self.tokenizer),
            batch_size=batch_size,
            reads_text=not self.shared,
        )


def teacher_side(
    given: Any,
    needs: TeacherNeeds,
    *,
    student_tokenizer: PreTrainedTokenizerBase,
    own_tokenizer: PreTrainedTokenizerBase | None,
    device: torch.device,
    placement: str = "whole",
) -> TeacherSide | None:
    """The teacher as a model in memory, on the CPU if it is loaded here; None if nothing needs it.

    placement: of one that is loaded here, see GRKDConfig.teacher_placement.
    Raises UserError if one is needed and not given, if its tokens are needed and it has another vocabulary, and for a
    model whose tokenizer is not known.
    """
    reason = needs.tokens or needs.text
    if reason is None:
        return None
    if given is None:
        raise UserError(f"{reason}; give teacher_model")
    tokenizer = tokenizer_of(given) if own_tokenizer is None else own_tokenizer
    if needs.tokens is not None:
        check_same_vocabulary(tokenizer, student_tokenizer)
    shared = tokenizer.get_vocab() == student_tokenizer.get_vocab()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model: Any = load_language_model(given, dtype=dtype) if isinstance(given, str) else given
    if isinstance(given, str) and placement != "whole":
        model = shard(model, device, offload=placement == "offloaded")
    check_head_size(model, tokenizer, role="teacher")
    return TeacherSide(model=honour_softcap(model), tokenizer=student_tokenizer if shared else tokenizer, shared=shared)


def needs_of(
    method: str, objective: Any, *, panel_needs: Sequence[str] | set[str] = (), metrics: Sequence[str] = ()
) -> TeacherNeeds:
    """What a method, its rankers and the metrics of evaluation ask of a teacher."""
    tokens = text = None
    if metrics:
        tokens = f"eval_metrics {', '.join(metrics)} compare the student's tokens with a teacher's"
    if objective.teacher_mixed_in:
        tokens = f"{method} samples from a mixture with the teacher"
    if objective.needs_teacher and "row" in objective.levels:
        tokens = f"{method} learns from a teacher's scores of tokens"
    if objective.trains_on == "teacher":
        text = f"{method} learns from a teacher's responses"
    if "teacher" in panel_needs:
        text = "a ranker asks the teacher"
    return TeacherNeeds(tokens=tokens, text=text, ranker="teacher" in panel_needs)


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
