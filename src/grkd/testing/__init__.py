"""Checks that every objective must pass, for methods and parts of your own: check_objective(MyMethod()).

Each check raises AssertionError with one line that says what is wrong. They need torch alone, and about a second.
"""

from collections.abc import Mapping

from grkd.objectives import Objective
from grkd.testing._batches import a_batch, loss_and_gradient, take
from grkd.testing._checks import CHECKS, CHECKS_OF_BATCHES, check_minimum, check_teacher
from grkd.testing._options import alternatives, check_options, option_paths

__all__ = [
    "CHECKS",
    "CHECKS_OF_BATCHES",
    "a_batch",
    "alternatives",
    "check_minimum",
    "check_objective",
    "check_options",
    "check_teacher",
    "loss_and_gradient",
    "option_paths",
    "take",
]


def check_objective(
    objective: Objective,
    *,
    bases: Mapping[str, Objective] | None = None,
    deterministic: Objective | None = None,
    minimum_at_teacher: bool | None = None,
) -> None:
    """Run every check on an objective, at each of its levels.

    Parameters
    ----------
    objective : Objective
        A method, or grkd composed of your parts.
    bases : mapping of str to Objective, optional
        By option: the objective to vary it from, for options that do something only together with others
        ({"clip": MyMethod(weights="sequence")}; of a part: "ranking.pairs.group_size").
    deterministic : Objective, optional
        The objective with draws that do not depend on how rows are batched, if it draws.
    minimum_at_teacher : bool, optional
        Whether a student equal to its teacher has no gradient and the least loss. None: not checked.

    Raises
    ------
    AssertionError
        For the first check that fails, in one line.

    Examples
    --------
    >>> from grkd import objectives, testing
    >>> testing.check_objective(objectives.load("kd"), minimum_at_teacher=True)
    """
    for level in objective.levels:
        for check in CHECKS:
            check(objective, level)
        for check in CHECKS_OF_BATCHES:
            check(deterministic or objective, level)
        if minimum_at_teacher is not None:
            check_minimum(objective, level, minimum_at_teacher)
    check_teacher(objective)
    check_options(objective, bases or {})
