"""What tests of classifiers share."""

import pytest

from tests.classify._toys import noted_groups


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the students of every group that is trained (the teacher aside)."""
    return noted_groups(monkeypatch)
