"""The choice of a group: numbers by hand, an exhaustive oracle in plain Python, properties over random texts."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from grkd.data.groups import choose_diverse, first_of_equal, shared_out

WORDS = st.text(alphabet="ab ", max_size=6)


def distance(one: str, other: str) -> float:
    """Levenshtein distance over the longer length, by the textbook table."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, start=1):
        row, above = [i], row
        for j, right in enumerate(other, start=1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (left != right)))
    return row[-1] / max(len(one), len(other), 1)


def plain_greedy(texts: list[str], n: int, sources: list[str], quotas: dict[str, int]) -> list[int]:
    """The same choice, every distance measured anew in every round."""
    texts = [text.strip() for text in texts]
    chosen: list[int] = []
    while len(chosen) < n:
        best, farthest = None, -1.0
        for index, text in enumerate(texts):
            used = sum(sources[other] == sources[index] for other in chosen)
            if text in texts[:index] or index in chosen or used >= quotas.get(sources[index], 0):
                continue
            nearest = min([distance(text, texts[other]) for other in chosen], default=1.0)
            if nearest > farthest:
                best, farthest = index, nearest
        if best is None:
            break
        chosen.append(best)
    return sorted(chosen)


def test_by_hand() -> None:
    """From "aaaa": "aaab" is 1/4 away, "abbb" 3/4, "bbbb" 1; then "aaab" is 1/4 from the nearest and "abbb" 1/4 too."""
    texts = ["aaaa", "aaab", "abbb", "bbbb"]
    assert choose_diverse(texts, 1) == [0]
    assert choose_diverse(texts, 2) == [0, 3]
    assert choose_diverse(texts, 3) == [0, 1, 3]  # a tie: the earlier one
    assert choose_diverse(texts, 9) == [0, 1, 2, 3]


def test_distance_is_relative_to_the_longer_text() -> None:
    """Both are 4 edits away, of 8 characters and of 4."""
    assert choose_diverse(["aaaa", "aaaabbbb", "ccc"], 2) == [0, 2]


def test_the_least_distance_to_all_chosen_counts_not_the_sum() -> None:
    """From "aaaa" and "bbbb", "bbba" is 3/4 and 1/4 away (sum 1), "aabb" 1/2 and 1/2 (sum 1): the latter."""
    assert choose_diverse(["aaaa", "bbba", "aabb", "bbbb"], 3) == [0, 2, 3]


def test_equal_texts_count_once() -> None:
    texts = ["a b", " a b\n", "c", "c", "a b"]
    assert first_of_equal(texts) == [0, 2]
    assert choose_diverse(texts, 4) == [0, 2]


def test_empty_text_is_a_text() -> None:
    assert choose_diverse(["", " ", "a"], 3) == [0, 2]


def test_quotas_by_hand() -> None:
    """The farthest text is the teacher's second, but it may give one only; a source without a quota gives none."""
    texts, sources = ["aaaa", "bbbb", "aaab", "cccc"], ["teacher", "teacher", "student", "data"]
    assert choose_diverse(texts, 2, sources=sources, quotas={"teacher": 1, "student": 1}) == [0, 2]
    assert choose_diverse(texts, 3, sources=sources, quotas={"teacher": 2, "student": 1}) == [0, 1, 2]
    assert choose_diverse(texts, 3, sources=sources, quotas={"student": 1, "data": 1}) == [2, 3]
    assert choose_diverse(texts, 3, sources=sources, quotas={"teacher": 1, "student": 2}) == [0, 2]


@given(st.lists(st.tuples(WORDS, st.sampled_from("tsd")), max_size=7), st.integers(1, 5), st.data())
def test_against_the_plain_search(pairs: list[tuple[str, str]], n: int, data: st.DataObject) -> None:
    texts, sources = [text for text, _ in pairs], [source for _, source in pairs]
    quotas = data.draw(st.fixed_dictionaries({source: st.integers(0, 3) for source in "tsd"}))
    found = choose_diverse(texts, n, sources=sources, quotas=quotas)
    assert found == plain_greedy(texts, n, sources, quotas)
    without = choose_diverse(texts, n)
    assert without == plain_greedy(texts, n, sources, dict.fromkeys("tsd", n))


@given(st.lists(st.tuples(WORDS, st.sampled_from("tsd")), max_size=8), st.integers(1, 6))
def test_what_holds_for_every_choice(pairs: list[tuple[str, str]], n: int) -> None:
    texts, sources = [text for text, _ in pairs], [source for _, source in pairs]
    quotas = {"t": 2, "s": 1}
    found = choose_diverse(texts, n, sources=sources, quotas=quotas)
    assert found == sorted(set(found))
    assert len({texts[index].strip() for index in found}) == len(found) <= n
    used = Counter(sources[index] for index in found)
    assert all(used[source] <= quotas.get(source, 0) for source in used)
    free = choose_diverse(texts, n)
    assert len(free) == min(n, len(first_of_equal(texts)))
    assert not texts or 0 in free


def test_errors_of_the_choice() -> None:
    with pytest.raises(ValueError, match="n must be"):
        choose_diverse(["a"], 0)
    with pytest.raises(ValueError, match="together"):
        choose_diverse(["a"], 1, quotas={"t": 1})
    with pytest.raises(ValueError, match="together"):
        choose_diverse(["a"], 1, sources=["t"])
    with pytest.raises((ValueError, TypeCheckError), match="2 sources"):
        choose_diverse(["a"], 1, sources=["t", "s"], quotas={"t": 1})


@pytest.mark.parametrize(
    ("total", "quotas", "expected"),
    [
        (4, {"teacher": 1, "student": 3}, {"teacher": 1, "student": 3}),
        (8, {"teacher": 1, "student": 3}, {"teacher": 2, "student": 6}),
        (5, {"teacher": 2, "student": 2}, {"teacher": 3, "student": 2}),  # equal remainders: the earlier source
        (10, {"teacher": 1, "student": 2, "data": 1}, {"teacher": 3, "student": 5, "data": 2}),
        (7, {"student": 4}, {"student": 7}),
    ],
)
def test_candidates_are_shared_out(total: int, quotas: dict[str, int], expected: dict[str, int]) -> None:
    assert shared_out(total, quotas) == expected


@given(st.dictionaries(st.sampled_from("tsd"), st.integers(1, 5), min_size=1), st.integers(0, 20))
def test_shares_add_up_and_serve_every_quota(quotas: dict[str, int], more: int) -> None:
    total = sum(quotas.values()) + more
    shares = shared_out(total, quotas)
    assert sum(shares.values()) == total
    for source, quota in quotas.items():
        assert shares[source] >= quota
        assert abs(shares[source] - total * quota / sum(quotas.values())) < 1


def test_errors_of_shares() -> None:
    for total, quotas in ((2, {"t": 3}), (2, {"t": 0}), (2, {})):
        with pytest.raises(ValueError, match="cannot serve"):
            shared_out(total, quotas)
