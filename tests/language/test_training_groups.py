"""The groups that a method can learn from, and what is said if there are none."""

from pathlib import Path

import pytest

from grkd import objectives
from grkd.data.language import Group, Item
from grkd.errors import UserError
from grkd.language.rows import training_groups
from grkd.recipe import Method
from grkd.run.folder import RunFolder

NAN = float("nan")


def group(*scores: float) -> Group:
    items = tuple(Item(f"p#{number}", [1], [2]) for number in range(len(scores)))
    return Group(id="p", items=items, teacher_scores=scores, sources=("student",) * len(scores))


@pytest.mark.parametrize("name", ["simpo", "dpo", "pro"])
@pytest.mark.parametrize("scores", [(NAN, NAN), (1.0, NAN), (1.0, 1.0)])
def test_without_an_order_the_error_names_the_rankers(name: str, scores: tuple[float, ...], tmp_path: Path) -> None:
    """As after a judge whose answers could not be read; there is no source of responses called "ends"."""
    run = RunFolder(tmp_path)
    method, objective = Method(name=name, label=name, options={}), objectives.load(name)
    with pytest.raises(UserError, match=rf"^methods: {name} compares .*score\.rankers .*score/rankers\.json") as found:
        training_groups(run, method, objective, [group(*scores)])
    assert "ends" not in str(found.value).split()
    kept = training_groups(run, method, objective, [group(*scores), group(2.0, 1.0)])
    assert [one.teacher_scores for one in kept] == [(2.0, 1.0)]
