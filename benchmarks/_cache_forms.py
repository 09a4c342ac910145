"""The forms of a teacher's signal that benchmarks.cache_quality compares: what is stored of a token, and its loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from grkd import objectives
from grkd.objectives import Batch, Objective, combine
from grkd.teacher.rank_codec import RankCodec
from grkd.training.cached_ranks import cached_batch

Loss = Callable[[Tensor, Tensor], Tensor]  # of tokens: the student's scores, and the teacher's or the records
SOFT = objectives.load("kd", temperature=1.0)
_GROUP = 16
ORDER = objectives.load(
    "grkd", ranking=[{"part": "pairs", "group": "top", "group_size": _GROUP}], anchor=[], alpha_shape="constant"
)


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a student learns by, and of the teacher's tokens what is stored (None: the teacher runs in every step).

    entries: of a sample their mean. compared: the form whose students it is held to. tail: all other candidates as one,
    of the top.
    """

    objective: Objective
    entries: int | None = None
    choose: Literal["top", "sample"] = "top"
    tail: bool = True
    compared: str = "live"

    def codec(self, vocabulary: int, share: float | None = None) -> RankCodec | None:
        """share: of a sample, which goes by the texts."""
        if self.entries is None:
            return None
        return RankCodec(
            vocabulary=vocabulary,
            entries=self.entries,
            choose=self.choose,
            log_probs=self.objective is SOFT,
            share=share,
        )

    def bytes_per_token(self, vocabulary: int) -> int:
        """Of the live teacher those of its scores; of a sample, whose records differ in size, those of the longest."""
        codec = self.codec(vocabulary)
        return 4 * vocabulary if codec is None else codec.record_bytes - (not self.tail)

    def loss(self, codec: RankCodec | None) -> Loss:
        objective = self.objective

        def live(student: Tensor, teacher: Tensor) -> Tensor:
            return combine(objective.terms(Batch(student=student, teacher=teacher)))

        def cached(student: Tensor, records: Tensor) -> Tensor:
            assert codec is not None
            return combine(objective.terms(cached_batch(student, records, codec, temperature=1.0)))

        def alone(student: Tensor, records: Tensor) -> Tensor:
            assert codec is not None
            found = codec.decode(records)
            return combine(objective.terms(Batch(student=student.gather(-1, found.ids), teacher=found.log_weights)))

        if codec is None:
            return live
        return cached if self.tail else alone


# In this order they are trained, seed by seed; "again": the texts in the order of another seed.
FORMS = {
    "live": Form(objective=SOFT),
    "live, again": Form(objective=SOFT),
    "sample-16": Form(objective=SOFT, entries=16, choose="sample"),
    "top-16": Form(objective=SOFT, entries=16),
    "live, order of 16": Form(objective=ORDER),
    "order of 16": Form(objective=ORDER, entries=_GROUP, compared="live, order of 16"),
    "top-64": Form(objective=SOFT, entries=64),
    "top-16, no tail": Form(objective=SOFT, entries=16, tail=False),
    "sample-64": Form(objective=SOFT, entries=64, choose="sample"),
    "sample-20": Form(objective=SOFT, entries=20, choose="sample"),
}
