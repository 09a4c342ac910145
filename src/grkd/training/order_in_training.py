"""How the student orders candidates while it is trained, for trackers: tau and pair accuracy beside the loss."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grkd.metrics.rank import kendall_tau_b, pair_accuracy, rank_fidelity
from grkd.objectives import Batch
from grkd.teacher.signal import TeacherHead
from grkd.training.rows import Forward

ROWS = 128  # that are measured, of the last micro-batch before a log
_TOP = 16  # the teacher's candidates whose order is measured
_NAMES = ("kendall_tau", "pair_accuracy")


class OrderInTraining:
    """Means over at most 128 rows of one micro-batch: cheap, and noisier than a held-out measure."""

    def __init__(self) -> None:
        self._found: dict[str, Tensor] = {}

    @torch.no_grad()
    def see(self, forward: Forward) -> None:
        """Measure a forward pass: order/kendall_tau and order/pair_accuracy of rows over the teacher's top 16,
        order/response_... of the responses of prompts. Nothing without a teacher's scores."""
        self._found = {}
        # A weight that is sharded over processes must be read by all of them together.
        if forward.head_inputs is not None and not hasattr(forward.head_inputs["student_weight"], "full_tensor"):
            self._rows(*_logits(forward.head_inputs))
        for level, batch in forward.batches.items():
            if batch.teacher is None:
                continue
            if level == "row":
                rows = batch.counted().nonzero().squeeze(-1)[:ROWS]
                self._rows(batch.student[rows].float(), batch.teacher[rows].float())
            else:
                self._responses(batch)

    def logged(self) -> dict[str, float]:
        """What was seen since the last call."""
        found, self._found = self._found, {}
        return {name: float(value) for name, value in found.items() if bool(value.isfinite())}

    def _rows(self, student: Tensor, teacher: Tensor) -> None:
        if not len(student) or student.shape[-1] < 2:
            return
        measures = rank_fidelity(student, teacher, top_k=min(_TOP, student.shape[-1]))
        self._found |= {f"order/{name}": measures[name].nanmean() for name in _NAMES}

    def _responses(self, batch: Batch) -> None:
        assert batch.teacher is not None
        mask = torch.ones_like(batch.teacher, dtype=torch.bool) if batch.mask is None else batch.mask
        known = mask & batch.teacher.isfinite()
        given = torch.where(known, batch.teacher, 0.0)
        student, given = batch.student.float(), given.float()
        self._found |= {
            "order/response_kendall_tau": kendall_tau_b(student, given, mask=known).float().nanmean(),
            "order/response_pair_accuracy": pair_accuracy(student, given, mask=known).float().nanmean(),
        }


def _logits(inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Logits of the first rows, from hidden states and heads."""
    found = []
    for side in ("student", "teacher"):
        weight, bias, softcap = (inputs[f"{side}_{name}"] for name in ("weight", "bias", "softcap"))
        head = TeacherHead(weight.float(), bias=None if bias is None else bias.float(), scale=1.0, softcap=softcap)
        found.append(head(inputs[f"{side}_hidden"][:ROWS])[:, : inputs["vocabulary"]])
    return found[0], found[1]
