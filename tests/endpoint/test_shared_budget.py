"""One budget of a comparison, whose students have processes of their own."""

from functools import partial
from pathlib import Path

import pytest

from grkd.endpoint.client import BudgetReached
from grkd.endpoint.launch import Budgets
from grkd.run.folder import RunFolder
from tests._forked import Forked

LIMIT = 25


def taken(folder: Path) -> int:
    """Requests until none is left."""
    budget = Budgets(folder).of("http://x/v1", "m", LIMIT)
    for count in range(LIMIT + 1):
        try:
            budget.take()
        except BudgetReached:
            return count
    return LIMIT + 1


def note(folder: Path, name: Path) -> None:
    name.write_text(str(taken(folder)))


def test_processes_share_a_budget_and_the_next_command_begins_at_zero(tmp_path: Path) -> None:
    """Three at a time take together as many as there are, also behind a command that left its counts."""
    folder = tmp_path / "run"
    run = RunFolder(folder)
    assert run.budgets is None
    for command in range(2):
        with run.locked():
            assert run.budgets == folder
            names = [tmp_path / f"taken-{command}-{number}" for number in range(3)]
            children = [Forked(partial(note, folder, name), name.with_suffix(".log")) for name in names]
            for child in children:
                child.wait()
                assert child.status == 0, child.printed()
            assert sum(int(path.read_text()) for path in names) == LIMIT
            assert taken(folder) == 0
            Budgets(folder).of("http://x/v1", "another", LIMIT).take()
        assert not list(folder.iterdir())
        Budgets(folder).of("http://x/v1", "m", LIMIT).take()  # of a command that is killed


def test_tokens_are_counted_together(tmp_path: Path) -> None:
    first, second = (Budgets(tmp_path).of("http://x/v1", "m", None, 10) for _ in range(2))
    first.take()
    first.spend(10)
    with pytest.raises(BudgetReached, match="the budget of 10 tokens is used up"):
        second.take()
