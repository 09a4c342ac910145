"""Which job of a comparison runs next."""

from grkd.objectives import Objective

Priority = tuple[bool, int, int, bool]


def priority(objective: Objective, *, on_disk: bool, seed_place: int, is_trial: bool) -> Priority:
    """Sort key of a job, smallest first.

    (1) Jobs already on disk, which are only read again. (2) Lower place of the seed in the recipe, so that every method
    gets its first seed before any gets a second. (3) Methods that sample during training: they are the slowest.
    (4) Final runs before trials.
    """
    sampling = (objective.on_policy > 0) + (objective.teacher_mixed_in > 0)
    return not on_disk, seed_place, -sampling, is_trial
