"""Agreement between rankers: scipy's tau, and shares counted by hand."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import kendalltau

from grkd.rankers import Tally
from grkd.rankers.agreement import agreement, kendall_tau, table

NAN = math.nan


@given(
    st.lists(st.sampled_from([NAN, 0.0, 1.0, 1.5]), min_size=6, max_size=6),
    st.lists(st.sampled_from([NAN, -1.0, 0.0, 3.0]), min_size=6, max_size=6),
)
def test_tau_is_scipys(one: list[float], other: list[float]) -> None:
    both = [(a, b) for a, b in zip(one, other, strict=True) if not math.isnan(a) and not math.isnan(b)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer than two numbers
        expected = kendalltau(*zip(*both, strict=True)).statistic if len(both) > 1 else NAN
    np.testing.assert_allclose(kendall_tau(np.array([one]), np.array([other])), [expected], atol=1e-12)


def test_shares_by_hand() -> None:
    exists = np.array([[True, True, True], [True, True, False]])
    verifier = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, NAN]])
    teacher = np.array([[-1.0, -2.0, NAN], [-3.0, -1.0, NAN]])
    found = agreement(
        {"verifier": verifier, "teacher": teacher}, exists, tallies={"teacher": {"position_bias": Tally(0.2, 2)}}
    )
    assert (found["groups"], found["responses"]) == (2, 5)
    assert found["rankers"]["verifier"] == {
        "abstentions": 0.0,
        "ties": 2 / 4,  # three pairs and one; the first of either group tie
        "groups_without_pair": 0.5,
    }
    assert found["rankers"]["teacher"] == {
        "abstentions": pytest.approx(1 / 5),
        "ties": 0.0,
        "groups_without_pair": 0.0,
        "position_bias": 0.1,
    }
    # Where both speak, the verifier ties: tau is not defined in either group.
    assert found["pairs"] == [{"rankers": ["verifier", "teacher"], "kendall_tau": None, "groups": 0}]


def test_tau_is_the_mean_over_groups() -> None:
    exists = np.ones((2, 3), dtype=bool)
    one = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    other = np.array([[1.0, 2.0, 3.0], [2.0, 1.0, 3.0]])  # 1 and 1/3
    (pair,) = agreement({"a": one, "b": other}, exists)["pairs"]
    assert pair["kendall_tau"] == pytest.approx(2 / 3)
    assert pair["groups"] == 2


def test_a_ranker_that_never_compares_two() -> None:
    found = agreement({"a": np.full((1, 2), NAN)}, np.ones((1, 2), dtype=bool))["rankers"]["a"]
    assert found == {"abstentions": 1.0, "ties": None, "groups_without_pair": 1.0}


def test_the_table_names_rankers_and_tau() -> None:
    scores = {"a": np.array([[1.0, 2.0]]), "b": np.array([[2.0, 1.0]])}
    console, unreadable = Console(width=120), {"a": {"unreadable": Tally(3.0, 0)}}
    with console.capture() as said:
        console.print(table(agreement(scores, np.ones((1, 2), dtype=bool), tallies=unreadable)))
    text = said.get()
    assert "Kendall tau -1.00 (1 groups)" in text
    assert "unreadable 3" in text
