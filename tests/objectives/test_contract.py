"""What every method in grkd.objectives promises: grkd.testing, for every method that is found, with its options.

The tables in _row_cases and _response_cases say what cannot be derived: option sets beyond the defaults, options that
matter only together with others, methods whose minimum is not at the teacher.
"""

import math
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

from grkd import objectives, testing
from grkd.errors import UserError
from grkd.objectives import Level, Term, combine
from tests.objectives import _response_cases, _row_cases

OPTION_SETS = _row_cases.OPTION_SETS | _response_cases.OPTION_SETS
TOGETHER = _row_cases.TOGETHER | _response_cases.TOGETHER
NO_IDENTITY = _row_cases.NO_IDENTITY | _response_cases.NO_IDENTITY
DETERMINISTIC = _row_cases.DETERMINISTIC | _response_cases.DETERMINISTIC

METHODS = objectives.names()


def load(name: str, case: str, **changed: Any) -> objectives.Objective:
    return objectives.load(name, **{**OPTION_SETS.get(name, {}).get(case, {}), **changed})


CASES = [
    (name, case, level)
    for name in METHODS
    for case in OPTION_SETS.get(name, {"default": {}})
    for level in load(name, case).levels
]
each_method = pytest.mark.parametrize("name", METHODS)
each_case = pytest.mark.parametrize(("name", "case", "level"), CASES, ids=["-".join(case) for case in CASES])


def test_combine_by_hand() -> None:
    # Row 1 of the first term and row 0 of the second do not count, whatever stands there.
    first = Term(
        name="a", weight=2.0, rows=torch.tensor([1.0, math.nan, 3.0]), counted=torch.tensor([True, False, True])
    )
    second = Term(name="b", weight=0.5, rows=torch.tensor([9.0, 4.0, 4.0]), counted=torch.tensor([False, True, True]))
    assert first.total() == 4
    assert combine([first, second]) == 2 * 4 / 2 + 0.5 * 8 / 2
    assert combine([first, second], rows=4) == 2 * 4 / 4 + 0.5 * 8 / 4
    assert combine([first, second], rows=torch.tensor(4.0)) == combine([first, second], rows=4)
    nothing = Term(name="a", weight=1.0, rows=torch.tensor([math.nan]), counted=torch.tensor([False]))
    assert combine([nothing]) == 0


def test_the_tables_speak_of_methods_that_exist() -> None:
    assert set(OPTION_SETS) | set(DETERMINISTIC) <= set(METHODS)
    assert set(NO_IDENTITY) <= {(name, case) for name, case, _ in CASES}
    for name, option in TOGETHER:
        assert option in testing.option_paths(objectives.load(name))


@each_case
@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda check: check.__name__)
def test_each_case(check: Any, name: str, case: str, level: Level) -> None:
    check(load(name, case), level)


@each_case
@pytest.mark.parametrize("check", testing.CHECKS_OF_BATCHES, ids=lambda check: check.__name__)
def test_each_case_of_a_batch(check: Any, name: str, case: str, level: Level) -> None:
    draws = name != "grkd" or case == "sample"
    check(load(name, case, **(DETERMINISTIC.get(name, {}) if draws else {})), level)


@each_case
def test_the_minimum_is_where_the_tables_say(name: str, case: str, level: Level) -> None:
    testing.check_minimum(load(name, case), level, (name, case) not in NO_IDENTITY)


@each_method
def test_the_teacher_is_needed_exactly_if_it_says_so(name: str) -> None:
    testing.check_teacher(objectives.load(name))


@each_method
def test_every_option_has_help_and_an_effect(name: str) -> None:
    bases = {option: objectives.load(name, **others) for (of, option), others in TOGETHER.items() if of == name}
    testing.check_options(objectives.load(name), bases)


@each_method
def test_an_unknown_option_names_the_nearest(name: str) -> None:
    known = [option for option in objectives.method(name).options({}) if "." not in option]
    for option in known:
        with pytest.raises(UserError, match=rf"^{name}: unknown option '{option}x' \(did you mean '{option}'\?\)"):
            objectives.load(name, **{option + "x": 1})
    with pytest.raises(UserError, match="unknown option 'zzz'; known: " + (", ".join(known) or "it has none")):
        objectives.load(name, zzz=1)


@each_method
def test_an_option_of_the_wrong_type_is_a_user_error(name: str) -> None:
    hints = get_type_hints(objectives.method(name))
    for option in objectives.options_of(objectives.method(name)):
        if option in ("ranking", "anchor"):
            continue  # lists of parts: test_grkd.py
        wrong = ["2", None, math.nan] + ([1] if hints[option] is bool else [True])
        for value in wrong:
            with pytest.raises(UserError, match=rf"^{name}: {option} must be .*, got {value!r}$"):
                objectives.load(name, **{option: value})


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown method 'sinpo' \(did you mean 'simpo'\?\); known: ce, .*grkd.*kd"):
        objectives.load("sinpo")


def test_names_are_the_files() -> None:
    folder = Path(objectives.__file__).parent / "methods"
    assert sorted(path.stem for path in folder.glob("[!_]*.py")) == METHODS


@pytest.mark.parametrize(
    ("page", "columns"), [("README.md", ("learns_from",)), ("docs/method.md", ("minimises", "source"))]
)
def test_the_tables_of_the_documentation_are_made_from_the_classes(page: str, columns: tuple[str, ...]) -> None:
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    assert objectives.method_table(*columns) in text, f"{page}: paste the table of `grkd methods --markdown`"
