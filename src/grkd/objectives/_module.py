"""GRKD as an nn.Module for anyone's own training loop."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from grkd.errors import UserError
from grkd.objectives._batch import Batch
from grkd.objectives._terms import combine
from grkd.objectives.methods.grkd import GRKD
from grkd.objectives.parts import Part


class GRKDLoss(nn.Module):
    """GRKD in one call, for any training loop: a scalar loss of two tensors of logits.

        L = alpha * sum(ranking) + (1 - alpha) * sum(anchor) + label_weight * cross-entropy,  alpha by the progress

    Parameters
    ----------
    preset : {"paper", "tokens", "classes"}
        The composition to start from.
    ranking, anchor : sequence of Part, optional
        Parts in place of the preset's, such as ranking=[Pairs(tau=0.5)] (grkd.objectives.parts).
    seed : int, optional
        Makes the draw of sampled groups repeatable.
    **options : Any
        alpha_shape, alpha_ceiling, label_weight and teacher_temperature (`grkd methods grkd`), and options of parts by
        dotted path, such as **{"pairs.tau": 0.5}.

    Raises
    ------
    UserError
        For unknown options and bad values, as a recipe does.

    References
    ----------
    arXiv 2504.20482.

    Examples
    --------
    >>> import torch
    >>> from grkd import GRKDLoss
    >>> criterion = GRKDLoss()
    >>> student_logits, teacher_logits = torch.zeros(2, 3), torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    >>> criterion(student_logits, teacher_logits, progress=1.0)  # pairs alone: log 2
    tensor(0.6931)
    >>> criterion(student_logits, teacher_logits, progress=0.0)  # soft targets alone: log 3
    tensor(1.0986)
    """

    def __init__(
        self,
        *,
        preset: str = "paper",
        ranking: Sequence[Part] | None = None,
        anchor: Sequence[Part] | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        lists = {
            name: list(parts) if isinstance(parts, Iterable) else parts
            for name, parts in (("ranking", ranking), ("anchor", anchor))
            if parts is not None
        }
        given = {"preset": preset, **lists, **options}
        for mistake in GRKD.mistakes(given):
            raise UserError(f"GRKDLoss: {mistake.sentence()}")
        self.objective = GRKD.built(given)
        if "response" in self.objective.levels:
            raise UserError("GRKDLoss: parts need level: row; logits hold no scores of whole responses")
        self.seed = seed
        self._generator: torch.Generator | None = None

    def forward(
        self,
        student_logits: Float[Tensor, "*rows candidates"],
        teacher_logits: Float[Tensor, "*rows candidates"],
        *,
        progress: float,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Float[Tensor, ""]:
        """Mean loss over the rows, in nats.

        The pair term is a mean over the rows that have a pair, the other terms over all rows that count.

        Parameters
        ----------
        student_logits, teacher_logits : Tensor [*rows, candidates]
            Such as [batch, classes] or [batch, positions, vocabulary].
        progress : float
            Of training: 0 at the first step, 1 at the last.
        mask : bool Tensor, optional
            True where it counts; of the logits' shape (candidates), or without their last axis (rows, positions).
        labels : int Tensor [*rows], optional
            The true candidate of each row, for label_weight > 0.

        Returns
        -------
        Tensor []
            In nats.

        Raises
        ------
        ValueError
            For shapes that do not fit.
        """
        if student_logits.shape != teacher_logits.shape:
            raise ValueError(
                f"student logits have shape {tuple(student_logits.shape)}, teacher logits {tuple(teacher_logits.shape)}"
            )
        if labels is not None and labels.shape != student_logits.shape[:-1]:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; they must have that of the logits' rows, "
                f"{tuple(student_logits.shape[:-1])}"
            )
        candidates = student_logits.shape[-1]
        batch = Batch(
            student=student_logits.reshape(-1, candidates),
            teacher=teacher_logits.reshape(-1, candidates),
            mask=self._candidate_mask(mask, student_logits),
            labels=None if labels is None else labels.reshape(-1),
            progress=progress,
            seeds=self._generator_on(student_logits.device),
        )
        return combine(self.objective.terms(batch))

    def extra_repr(self) -> str:
        return repr(self.objective)

    def _candidate_mask(self, mask: Tensor | None, logits: Tensor) -> Tensor | None:
        if mask is None:
            return None
        if mask.is_floating_point():
            raise ValueError(f"mask must be bool (True = it counts), got {mask.dtype}")
        if mask.shape == logits.shape[:-1]:
            mask = mask.unsqueeze(-1).expand(logits.shape)
        if mask.shape != logits.shape:
            raise ValueError(
                f"mask has shape {tuple(mask.shape)}; it must be that of the logits, {tuple(logits.shape)}, "
                f"or of their rows, {tuple(logits.shape[:-1])}"
            )
        return mask.bool().reshape(-1, logits.shape[-1])

    def _generator_on(self, device: torch.device) -> torch.Generator | None:
        if self.seed is None:
            return None
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self.seed)
        return self._generator
