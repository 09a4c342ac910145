"""Groups of responses for the tests of methods that compare a pair of them."""

import torch

from grkd.objectives import Batch

# Six groups of up to four responses. Row 3: two of the same score on top; row 4: all tied; row 5: one response.
TEACHER = [
    [-1.0, -0.5, -2.0, -0.7],
    [0.3, 0.1, 0.2, 0.0],
    [-3.0, -1.0, -2.0, 9.0],
    [1.0, 2.0, 2.0, 0.5],
    [0.7, 0.7, 0.7, 0.7],
    [0.1, 9.0, 9.0, 9.0],
]
MASK = [[True] * 4, [True] * 4, [True, True, True, False], [True] * 4, [True] * 4, [True, False, False, False]]
# (best, worst) of each group by hand, None if there is no pair.
ENDS = [(1, 2), (0, 3), (1, 0), (1, 3), None, None]


def a_batch() -> Batch:
    """Scores in nats per token, in float64."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(6, 4, generator=generator, dtype=torch.float64) - 1
    return Batch(
        level="response",
        student=student,
        teacher=torch.tensor(TEACHER, dtype=torch.float64),
        mask=torch.tensor(MASK),
        lengths=torch.randint(1, 20, (6, 4), generator=generator),
        reference=student + 0.3 * torch.randn(6, 4, generator=generator, dtype=torch.float64),
    )


def only_the_ends(batch: Batch) -> Batch:
    """What a trainer gives to a method that is trained on the ends: the pairs, or what is left of a group."""
    kept = [list(pair) if pair else [0, 0] for pair in ENDS]
    index = torch.tensor(kept)
    mask = torch.tensor([[True, pair is not None] for pair in ENDS])
    assert batch.teacher is not None
    assert batch.lengths is not None
    assert batch.reference is not None
    return Batch(
        level="response",
        student=batch.student.gather(-1, index),
        teacher=batch.teacher.gather(-1, index),
        mask=mask,
        lengths=batch.lengths.gather(-1, index),
        reference=batch.reference.gather(-1, index),
    )
