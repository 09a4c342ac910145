"""Methods that learn the order of rows (classes, tokens, lists) or of the responses of a prompt."""

from dataclasses import dataclass

from grkd.objectives._base import LeastTeacher, Objective
from grkd.objectives._batch import Level
from grkd.objectives._option_checks import known
from grkd.objectives._options import option


@dataclass(frozen=True, kw_only=True)
class AnyLevel(Objective):
    """A method with one term, on rows or on responses. Raises UserError for an unknown level."""

    level: Level = option("row", "row: classes, tokens or lists; response: the responses of a prompt")

    def __post_init__(self) -> None:
        known(type(self).__module__.rpartition(".")[2], self, "level")

    @property
    def levels(self) -> tuple[Level, ...]:
        return (self.level,)

    @property
    def least_of_responses(self) -> LeastTeacher:
        return self.least_teacher
