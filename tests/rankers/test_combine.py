"""One order from several rankers, against loops written out and numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grkd.rankers.combine import Votes, lexicographic, order, votes, weighted, z_scores

NAN = math.nan


def score_tables(rankers: int, groups: int = 3, n: int = 4) -> st.SearchStrategy[list[np.ndarray]]:
    value = st.sampled_from([NAN, 0.0, 0.1, 1.0, 2.5])
    table = st.lists(st.lists(value, min_size=n, max_size=n), min_size=groups, max_size=groups)
    return st.lists(table.map(np.array), min_size=rankers, max_size=rankers)


class TestVotes:
    def test_by_hand(self) -> None:
        """Three rankers on a, b, c: a > b > c;  b > a, c unknown;  a = b > c."""
        scores = [np.array([[3.0, 2.0, 1.0]]), np.array([[0.0, 1.0, NAN]]), np.array([[5.0, 5.0, 0.0]])]
        found = votes(scores)
        assert found.share[0, 0, 1] == 0.5  # one for a, one for b; the third ties and abstains
        assert found.weight[0, 0, 1] == 2
        assert found.share[0, 0, 2] == 1.0
        assert found.weight[0, 0, 2] == 2  # the second does not know c
        assert found.share[0, 2, 1] == 0.0
        assert found.weight[0, 1, 2] == 2
        np.testing.assert_allclose(found.scores(), [[0.75, 0.75, 0.0]])

    def test_weights_count(self) -> None:
        found = votes([np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])], [3.0, 1.0])
        assert found.share[0, 0, 1] == 0.75
        assert found.weight[0, 0, 1] == 4

    def test_an_intransitive_vote_stays_one(self) -> None:
        cycle = [np.array([[3.0, 2.0, 1.0]]), np.array([[1.0, 3.0, 2.0]]), np.array([[2.0, 1.0, 3.0]])]
        share = votes(cycle).share[0]
        assert [share[0, 1], share[1, 2], share[2, 0]] == pytest.approx([2 / 3] * 3)

    def test_nobody_has_an_opinion(self) -> None:
        found = votes([np.full((1, 3), NAN), np.ones((1, 3))])
        assert (found.share == 0.5).all()
        assert (found.weight == 0).all()
        assert np.isnan(found.scores()).all()

    @given(score_tables(3), st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=3, max_size=3))
    def test_brute_force(self, scores: list[np.ndarray], weights: list[float]) -> None:
        found = votes(scores, weights)
        groups, n = scores[0].shape
        for g in range(groups):
            for i in range(n):
                for j in range(n):
                    opinions = [
                        (weight, values[g, i] > values[g, j])
                        for values, weight in zip(scores, weights, strict=True)
                        if values[g, i] > values[g, j] or values[g, i] < values[g, j]
                    ]
                    total = sum(weight for weight, _ in opinions)
                    won = sum(weight for weight, above in opinions if above)
                    assert found.weight[g, i, j] == pytest.approx(total)
                    assert found.share[g, i, j] == pytest.approx(won / total if total else 0.5)
        assert ((found.share >= 0) & (found.share <= 1)).all()
        np.testing.assert_array_equal(found.weight, found.weight.swapaxes(1, 2))
        np.testing.assert_allclose(found.share + found.share.swapaxes(1, 2), 1.0, rtol=0, atol=1e-15)


class TestWeighted:
    def test_by_hand(self) -> None:
        """z of (0, 2) is (-1, 1); of (0, 0, 3) it is (-1/sqrt 2, -1/sqrt 2, sqrt 2)."""
        first, second = np.array([[0.0, 2.0, NAN]]), np.array([[0.0, 0.0, 3.0]])
        expected = [[(-2 - math.sqrt(0.5)) / 3, (2 - math.sqrt(0.5)) / 3, math.sqrt(2) / 3]]
        np.testing.assert_allclose(weighted([first, second], [2.0, 1.0]), expected)

    def test_one_ranker_alone_keeps_its_scores(self) -> None:
        scores = np.array([[-1.5, NAN, 4.0]])
        for combine in ("weights", "lexicographic", "votes"):
            np.testing.assert_array_equal(order([scores], combine=combine).scores, scores)

    def test_rankers_that_cancel_out_leave_a_tie_and_not_their_rounding(self) -> None:
        scores = np.random.default_rng(0).random((500, 4)).round(1)
        found = order([scores, scores[:, ::-1]]).scores  # by symmetry the ends are tied, and the middle
        assert np.array_equal(found, found[:, ::-1])

    def test_equal_scores_are_not_blown_up_by_rounding(self) -> None:
        assert np.std([0.1, 0.1, 0.1]) > 0  # what the check of the deviation would miss
        np.testing.assert_array_equal(z_scores(np.array([[0.1, 0.1, 0.1]])), [[0.0, 0.0, 0.0]])

    def test_an_abstention_moves_nothing(self) -> None:
        one, silent = np.array([[1.0, 2.0, 4.0]]), np.full((1, 3), NAN)
        np.testing.assert_allclose(weighted([one, silent]), weighted([one, np.ones((1, 3))]))
        assert np.isnan(weighted([silent, silent])).all()

    @given(score_tables(2))
    def test_scale_and_origin_of_a_ranker_do_not_count(self, scores: list[np.ndarray]) -> None:
        moved = [4.0 * scores[0] + 7.0, scores[1]]
        np.testing.assert_allclose(weighted(moved), weighted(scores), atol=1e-12)


class TestSummed:
    def test_by_hand(self) -> None:
        """A missing score adds nothing; nobody's opinion is none. One ranker alone is weighted too."""
        first, second = np.array([[0.0, 2.0, NAN, NAN]]), np.array([[1.0, NAN, 3.0, NAN]])
        np.testing.assert_allclose(
            order([first, second], weights=[2.0, 0.5], combine="sum").scores, [[0.5, 4, 1.5, NAN]]
        )
        np.testing.assert_allclose(order([first], weights=[2.0], combine="sum").scores, [[0.0, 4.0, NAN, NAN]])


class TestLexicographic:
    def test_by_hand(self) -> None:
        right = np.array([[1.0, 0.0, 1.0, 0.0]])
        teacher = np.array([[-2.0, -0.1, -1.0, -0.1]])
        np.testing.assert_allclose(lexicographic([right, teacher]), [[0.5, 0.0, 1.0, 0.0]])

    def test_a_ranker_that_knows_none_of_the_tied_is_passed_over(self) -> None:
        first = np.array([[1.0, 1.0, 0.0]])
        second = np.array([[NAN, NAN, 5.0]])
        third = np.array([[1.0, 2.0, 9.0]])
        np.testing.assert_allclose(lexicographic([first, second, third]), [[0.5, 1.0, 0.0]])

    def test_no_place_is_invented(self) -> None:
        """The first ranker cannot place the third response, whatever the second says of it."""
        found = lexicographic([np.array([[1.0, 0.0, NAN]]), np.array([[0.0, 2.0, 1.0]])])
        np.testing.assert_array_equal(found, [[1.0, 0.0, NAN]])

    @given(st.lists(st.lists(st.integers(0, 2), min_size=5, max_size=5), min_size=3, max_size=3))
    def test_is_the_order_of_tuples_where_all_is_known(self, values: list[list[int]]) -> None:
        tuples = list(zip(*values, strict=True))
        found = lexicographic([np.array([row], dtype=float) for row in values])[0]
        for i, one in enumerate(tuples):
            for j, other in enumerate(tuples):
                assert (found[i] > found[j]) == (one > other)


class TestOrder:
    def test_votes_of_one_ranker_are_its_hard_pairs(self) -> None:
        scores = np.array([[3.0, 1.0, 1.0, NAN]])
        found = order([scores], combine="votes").votes
        assert isinstance(found, Votes)
        hard = scores[:, :, None] > scores[:, None, :]
        np.testing.assert_array_equal(found.share == 1, hard)
        np.testing.assert_array_equal(found.weight, hard | hard.swapaxes(1, 2))

    def test_other_combinations_have_no_votes(self) -> None:
        assert order([np.ones((1, 2))], combine="weights").votes is None

    @pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -2.0]])
    def test_weights_that_cannot_be(self, weights: list[float]) -> None:
        with pytest.raises(ValueError, match="weights above 0"):
            weighted([np.ones((1, 2)), np.ones((1, 2))], weights)
