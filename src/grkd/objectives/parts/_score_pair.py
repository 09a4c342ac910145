"""Student and teacher scores of a batch, with what several parts read of them."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grkd.groups import checked_mask, wide
from grkd.losses import masked_log_softmax, standardized


@dataclass(frozen=True, kw_only=True, eq=False)
class ScorePair:
    """Student and teacher scores of a batch, with a cache of log-softmaxes by temperature.

    Sharing them matters on a GPU, where a small classifier's loss is dominated by kernel launches.
    """

    student: Float[Tensor, "rows candidates"]
    teacher_scores: Float[Tensor, "rows candidates"] | None
    mask: Bool[Tensor, "rows candidates"] | None = None
    _log_probs: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    _counted: list[Tensor] = field(default_factory=list, init=False, repr=False)
    _derived: "dict[float | str, ScorePair]" = field(default_factory=dict, init=False, repr=False)

    @property
    def teacher(self) -> Float[Tensor, "rows candidates"]:
        """The teacher's scores. Raises ValueError if the batch has none."""
        if self.teacher_scores is None:
            raise ValueError("this objective needs teacher scores")
        return self.teacher_scores

    @property
    def exists(self) -> Bool[Tensor, "rows candidates"] | None:
        """The mask, checked. None stays None: without a mask the losses have less to do."""
        return None if self.mask is None else checked_mask(self.mask, self.student)

    def counted(self) -> Bool[Tensor, " rows"]:
        """Rows with at least one candidate."""
        if not self._counted:
            self._counted.append(checked_mask(self.mask, self.student).any(-1))
        return self._counted[0]

    def log_probs(self, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities of student and teacher over the candidates, in nats, computed once per temperature."""
        if temperature not in self._log_probs:
            student, teacher = wide(self.student), wide(self.teacher.detach())
            self._log_probs[temperature] = (
                masked_log_softmax(student, self.exists, temperature),
                masked_log_softmax(teacher, self.exists, temperature),
            )
        return self._log_probs[temperature]

    def columns(self, temperature: float) -> "ScorePair":
        """Rows and candidates changed over: [candidates, rows], a candidate's log-probabilities over the batch.

        Log-probabilities, since they compare between rows where logits do not. A teacher's -inf is the most negative
        finite number: a candidate may have probability 0 in every row.
        """
        if temperature not in self._derived:
            student, teacher = self.log_probs(temperature)
            teacher = teacher.clamp_min(torch.finfo(teacher.dtype).min)
            mask = None if self.mask is None else checked_mask(self.mask, self.student).T
            self._derived[temperature] = ScorePair(student=student.T, teacher_scores=teacher.T, mask=mask)
        return self._derived[temperature]

    def z_scores(self) -> "ScorePair":
        """Both sides brought to mean 0 and standard deviation 1 over each row (grkd.losses.standardized)."""
        if "z" not in self._derived:
            student, teacher = (standardized(scores, mask=self.mask) for scores in (self.student, self.teacher))
            self._derived["z"] = ScorePair(student=student, teacher_scores=teacher, mask=self.mask)
        return self._derived["z"]
