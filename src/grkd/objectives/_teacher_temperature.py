"""A temperature on the teacher's scores alone, the same option for every method that matches probabilities."""

from dataclasses import replace

from grkd.errors import UserError
from grkd.groups import wide
from grkd.objectives._batch import Batch


def sharpened(batch: Batch, teacher_temperature: float) -> Batch:
    """The batch with the teacher's scores divided by the temperature, before anything else: t / teacher_temperature.

    Below 1 it sharpens a teacher that learnt from wrong labels. At 1 the batch itself.
    """
    if teacher_temperature == 1.0 or batch.teacher is None:
        return batch
    return replace(batch, teacher=wide(batch.teacher) / teacher_temperature)


def check_not_undone(name: str, *, standardize: bool, teacher_temperature: float) -> None:
    """Reject a teacher temperature beside z-scores, which do not depend on it."""
    if standardize and teacher_temperature != 1.0:
        raise UserError(f"{name}: standardize undoes teacher_temperature; remove one of them")
