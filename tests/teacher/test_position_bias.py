"""The teacher's preference for the place in which a response is shown."""

from itertools import permutations

import pytest
from scipy.special import expit

from grkd.teacher.annotator import choice_scores
from tests.teacher.test_annotator import NUMBERS, Judge, asked, words


@pytest.mark.parametrize("bias", [-1.5, 0.0, 2.0])
def test_the_mean_probability_of_the_first_letter(bias: float) -> None:
    """Over all ordered pairs; 1/2 without a bias, since both orders are asked."""
    tokenizer, values = words(), (1, 2, 4)
    texts = [asked(*(NUMBERS[value] for value in values))]
    (verdict,) = choice_scores(Judge(tokenizer, bias=bias), tokenizer, texts, batch_size=4, context=None)
    expected = [expit(bias + one - other) for one, other in permutations(values, 2)]
    assert verdict.first == pytest.approx(sum(expected) / 6, rel=1e-5)
    assert (verdict.first == pytest.approx(0.5)) == (bias == 0)
