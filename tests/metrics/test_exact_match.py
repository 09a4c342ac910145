"""Exact match: the rules on texts, real GSM8K answers, files with mistakes, and a whole run on a tiny model."""

import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grkd import statistics
from grkd.errors import UserError
from grkd.metrics import exact_match

DATA = Path(os.environ.get("GRKD_DATA", Path(__file__).parents[2] / "../shared/data")) / "llm"


@pytest.mark.parametrize(
    ("answer", "response", "found", "correct"),
    [
        ("18", "She makes 9 * 2 = $18 every day.", "18", True),
        ("#### 18", "So it is 17.\n#### 18", "18", True),
        ("Work: 3 + 4 = 7\n#### 7", "The answer is 7. I hope that 8 of you agree.", "8", False),
        ("Work: 3 + 4 = 7\n#### 7", "The answer is 7.\nI hope that 8 of you agree.", "7", True),
        ("7", "Answer: 7\nThat took 3 steps.", "7", True),
        ("7", "#### 7\nThe answer is 8", "7", True),  # "####" comes before "answer is"
        ("7", "First 6.\n#### 6\n#### 7", "7", True),  # the last mark
        ("1,234", "It is 1234.", "1234", True),
        ("1234", "It is $1,234.00", "1234", True),
        ("3.5", "3.50", "7/2", True),
        ("3.5", "7/2", "7/2", True),
        ("50 %", "50", "50", True),
        ("$5", "5 dollars", "5", True),
        ("-4", "x = -4", "-4", True),
        ("-4", "\u22124", "-4", True),
        ("4", "7-4", "4", True),  # a minus between numbers is no sign
        ("0.3", "0.30000000000000001", "30000000000000001/100000000000000000", False),  # by value, exactly
        ("18", "The answer is\n18", "18", True),  # nothing behind the mark on its line
        ("42", "12 + 30 = 42.\n\n**Answer:**\n42", "42", True),  # nor a letter or digit
        ("42", "The final answer is:\n\n$$42$$\nDone in 3 steps.", "42", True),
        ("Paris", "The answer is:\nParis", "paris", True),
        ("42", "What the answer is depends on the rate.\nThe total is 42.", "42", True),  # no number: no mark
        ("A", "The answer is A", "a", True),  # a choice, not an article
        ("A", "The answer is B", "b", False),
        ("a dog", "The answer is the dog", "dog", True),
        ("+", "The answer is +", "+", True),
        ("+", "The answer is -", "-", False),
        ("18", "####\nThe answer is 18, of 20.", "20", False),  # what follows the mark holds two numbers
        ("3", "1,2,3", "3", True),  # no thousands
        ("1234567", "1,234,567 in all", "1234567", True),
        ("100000", "1e5", "100000", True),
        ("5", "-$5", "-5", False),
        ("18", "9" * 5000, None, False),
        ("18", "1e999999999", "999999999", False),  # neither hangs nor counts as a number of its own
        ("-5", "$-5", "-5", True),
        ("0.5", ".5", "1/2", True),
        ("18", "eighteen", None, False),
        ("18", "", None, False),
        ("18", "1/0", None, False),
        ("18", "It is 180.", "180", False),
        ("Paris", "paris.", "paris", True),
        ("The Eiffel Tower", "eiffel  tower!", "eiffel tower", True),
        ("Paris", "The answer is: Paris", "paris", True),
        ("Paris", "It is Paris", "it is paris", False),
        ("Paris", "...", None, False),
        ("caf\u00e9", "CAFE\u0301", "caf\u00e9", True),
        ("3 cats", "3", "3", False),  # a text, not a number
        ("Paris", "Let us see.\n\n**Answer**: Paris", "paris", True),  # bold without the colon
        ("-5 degrees", "The answer is 5 degrees.", "5 degrees", False),
        ("-5 degrees", "The answer is \u22125 degrees.", "-5 degrees", True),
        ("x+1", "Answer: x - 1", "x 1", False),
        ("x+1", "Answer: x + 1", "x + 1", True),
        ("5 > 3", "Answer: 5 < 3", "5 < 3", False),
        ("C", "C++", "c + +", False),
        ("C", "The answer is C#.", "c#", False),
        ("C#", "**C#**", "c#", True),
        ("C# minor", "C\u266f minor", "c# minor", True),
        ("A#", "The answer is A#", "a#", True),
        ("A#", "The answer is A", "a", False),
        ("Paris", "# Paris", "paris", True),  # a heading
        ("well-known", "Well known", "well known", True),  # a hyphen is no sign
        ("Paris", "Answer: = Paris", "paris", True),
        ("+5 degrees", "5 degrees", "5 degrees", True),
        ("+5", "5.0", "5", True),
        ("1.5/2", "1.5/2", "1 5 2", True),  # no number that is read
    ],
)
def test_grade(answer: str, response: str, found: str | None, correct: bool) -> None:
    assert exact_match.grade(answer, response) == (found, correct)


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "= {}", "The total is {}.", "${} in all", "#### {}"]))
def test_a_number_is_found_as_it_was_written(value: int, frame: str) -> None:
    assert exact_match.number_in(frame.format(f"{value:,}")) == value
    assert exact_match.number_in(frame.format(value)) == value


@given(st.fractions(max_denominator=1000, min_value=-1000, max_value=1000))
def test_decimals_and_fractions_are_exact(value: Fraction) -> None:
    assert exact_match.number_in(f"so {value}") == value
    decimal = f"{float(value):.4f}"
    assert exact_match.number_in(f"so {decimal}") == Fraction(decimal)


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = exact_match.normalised_text(text)
    assert exact_match.normalised_text(once) == once


@pytest.mark.skipif(not (DATA / "gsm8k" / "test.jsonl").is_file(), reason="no gsm8k there; set GRKD_DATA")
def test_the_real_answers_of_gsm8k_are_right_and_their_neighbours_wrong() -> None:
    questions = exact_match.read_questions(DATA / "gsm8k" / "test.jsonl")
    assert len(questions) == 1319
    right = exact_match.score(questions, [question.answer for question in questions])
    assert right["metrics"]["exact_match"]["value"] == 1.0
    assert right["metrics"]["exact_match"]["low"] == pytest.approx(1 / (1 + 1.959964**2 / 1319))  # Wilson, all right
    plain = exact_match.score(questions, [question.answer.rpartition("#### ")[2] for question in questions])
    assert plain["metrics"]["exact_match"]["value"] == 1.0
    numbers = [int(question.answer.rpartition("#### ")[2].replace(",", "")) for question in questions]
    off = exact_match.score(questions, [f"The answer is {number + 1}." for number in numbers])
    assert off["metrics"]["exact_match"]["value"] == 0.0
    assert off["metrics"]["unparsed"]["value"] == 0


def test_two_models_can_be_compared() -> None:
    questions = [exact_match.QuestionAndAnswer(str(n), f"{n}?", str(n)) for n in range(20)]
    good = exact_match.score(questions, [str(n) for n in range(20)])
    bad = exact_match.score(questions, [str(n) if n < 12 else "no idea" for n in range(20)])
    assert bad["metrics"]["exact_match"]["value"] == 12 / 20
    assert bad["metrics"]["unparsed"]["value"] == 8
    found = statistics.mcnemar(*([item["correct"] for item in model["items"]] for model in (good, bad)))
    assert found == (8, 0, pytest.approx(2 / 2**8))
    with pytest.raises(ValueError, match="zip"):
        exact_match.score(questions, ["1"])


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_reading(tmp_path: Path) -> None:
    path = write(
        tmp_path / "q.jsonl",
        '{"question": "1 + 1?", "answer": 2}',
        "",
        '{"id": "b", "question": "where?", "answer": "here", "source": "x"}',
        '{"id": 7, "question": "2 + 2?", "answer": "#### 4"}',
    )
    found = exact_match.read_questions(path)
    assert [(item.id, item.question, item.answer) for item in found] == [
        ("1", "1 + 1?", "2"),
        ("b", "where?", "here"),
        ("7", "2 + 2?", "#### 4"),
    ]
    assert len(exact_match.read_questions(path, limit=2)) == 2


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([""], "no questions in it"),
        (["{"], "line 1: not JSON"),
        (["[1]"], "line 1: expected an object"),
        (['{"question": "a", "answer": "b"}', '{"question": "a"}'], "line 2: answer must be text or a number"),
        (['{"question": "", "answer": "b"}'], "line 1: question must be text and not empty"),
        (['{"question": 3, "answer": "b"}'], "line 1: question must be text and not empty"),
        (['{"question": "a", "answer": true}'], "line 1: answer must be text or a number"),
        (['{"id": 1, "question": "a", "answer": "b"}'] * 2, "line 2: id '1' occurs twice"),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, lines: list[str], words: str) -> None:
    path = write(tmp_path / "q.jsonl", *lines)
    with pytest.raises(UserError, match=words) as caught:
        exact_match.read_questions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        exact_match.read_questions(tmp_path / "absent.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"question": "é", "answer": "1"}'.encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        exact_match.read_questions(tmp_path / "latin.jsonl")
