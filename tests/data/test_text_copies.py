"""Copies of texts with words left out: which words, how many, and the same again with the same seed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grkd.data.text_copies import with_words_left_out

TEXTS = ["my card was  stolen abroad", "what is the rate", "hello"]


@given(st.lists(st.text(min_size=1).filter(str.strip), max_size=5), st.floats(0, 0.99), st.integers(0, 3))
def test_a_copy_has_some_of_the_words_in_their_order(texts: list[str], dropout: float, copies: int) -> None:
    found = with_words_left_out(texts, copies=copies, dropout=dropout, seed=1)
    assert len(found) == copies * len(texts)
    for copy, text in zip(found, texts * copies, strict=True):
        words, left = iter(text.split()), copy.split()
        assert left
        assert all(word in words for word in left)  # `in` moves the iterator on: in this order


def test_nothing_is_left_out_at_zero_and_one_word_stays_always() -> None:
    assert with_words_left_out(TEXTS, copies=1, dropout=0.0, seed=0) == [" ".join(text.split()) for text in TEXTS]
    assert with_words_left_out(["hello"] * 50, copies=2, dropout=0.99, seed=0) == ["hello"] * 100


def test_the_share_left_out_is_the_dropout_and_copies_differ() -> None:
    long = " ".join(str(number) for number in range(20_000))
    first, second = with_words_left_out([long], copies=2, dropout=0.3, seed=0)
    assert len(first.split()) / 20_000 == pytest.approx(0.7, abs=0.02)  # six standard errors
    assert first != second
    assert with_words_left_out([long], copies=2, dropout=0.3, seed=0) == [first, second]
    assert with_words_left_out([long], copies=2, dropout=0.3, seed=1) != [first, second]


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_outside_of_its_range_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match="dropout must be in"):
        with_words_left_out(TEXTS, copies=1, dropout=dropout, seed=0)
