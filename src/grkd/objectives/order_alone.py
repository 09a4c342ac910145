"""Which methods can learn from an order of responses, and from one without scores."""

from collections.abc import Collection

from grkd.objectives._any_level import AnyLevel
from grkd.objectives._base import Objective

_INSTEAD = "use grkd with pairs on responses, plackett_luce with level: response, dpo, simpo or pro"


def cannot_use(objective: Objective, *, ranked_by_data: bool = True) -> str:
    """Why a method has no use for an order of responses without scores: the end of a sentence, empty if it has.

    ranked_by_data: whether the order is the only word on the responses; else rankers give scores beside it.
    """
    if isinstance(objective, AnyLevel) and objective.level == "row":
        return "compares tokens, and the data give an order of responses; set level: response"
    if "response" not in objective.levels or not ranked_by_data or objective.least_of_responses == "tiers":
        return ""
    needed = "a score per response" if objective.least_of_responses == "scores" else "an order without ties"
    return f"needs {needed}, and the data give an order alone; {_INSTEAD}"


def leaves_level_open(objective: Objective, given: Collection[str]) -> str:
    """Why it isn't clear whether scores of responses are to be learnt: the end of a sentence, empty if it is.

    given: names of the method's options that were set.
    """
    if isinstance(objective, AnyLevel) and objective.level == "row" and "level" not in given:
        return "compares tokens, and the data give scores of responses; set level: response, or level: row for tokens"
    return ""
