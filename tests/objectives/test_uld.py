"""ULD against its formula, and what it does not see."""

import pytest
import torch

from grkd import objectives
from grkd.errors import UserError
from grkd.objectives import Batch, combine


def test_by_hand() -> None:
    """(.5, .3, .2) and (.1, .8, .1), sorted: |.5 - .8| + |.3 - .1| + |.2 - .1|."""
    student, teacher = (torch.tensor([each], dtype=torch.float64).log() for each in ([0.5, 0.3, 0.2], [0.1, 0.8, 0.1]))
    (term,) = objectives.load("uld").terms(Batch(student=student, teacher=teacher))
    assert term.rows.item() == pytest.approx(0.6)


def test_entries_may_stand_in_any_order_and_be_fewer() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    wanted = combine(objectives.load("uld").terms(Batch(student=student, teacher=teacher)))
    turned = teacher[:, torch.randperm(7, generator=generator)]
    wide = torch.nn.functional.pad(student, (0, 3), value=-1e4), torch.nn.functional.pad(turned, (0, 3), value=-1e4)
    found = combine(objectives.load("uld").terms(Batch(student=wide[0], teacher=wide[1])))
    torch.testing.assert_close(found, wanted)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="temperature"):
        objectives.load("uld", temperature=0.0)
