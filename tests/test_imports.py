"""Anything by import path: what is found, and one line for what is not."""

import sys
from pathlib import Path

import pytest

from grkd.errors import UserError
from grkd.imports import imported, imported_callable, imported_class, is_import_path
from grkd.objectives import Objective

MODULE = """
from os import system
import os
from collections import OrderedDict
NUMBER = 3
def factory(): return 1
class Mine: pass
def _hidden(): pass
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "things_of_mine.py").write_text(MODULE)
    (tmp_path / "broken_thing.py").write_text("import no_such_module_at_all")
    (tmp_path / "failing_thing.py").write_text("raise RuntimeError('no luck\\nat all')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "things_of_mine", raising=False)


def test_what_is_found() -> None:
    assert imported("things_of_mine:NUMBER") == 3
    assert imported_callable("things_of_mine:factory")() == 1
    assert imported_class("things_of_mine:Mine", object).__name__ == "Mine"
    assert imported_class("grkd.objectives.methods.kd:KD", Objective).__name__ == "KD"


def test_which_names_are_import_paths() -> None:
    names = {"a.b:C": True, "kd": False, "hub/model": False, "http://host:8000/v1": False, "./folder": False}
    assert {name: is_import_path(name) for name in names} == names


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("os:system", "os:system: os is in Python's standard library; name a function or class of your own"),
        ("os.path:join", "os.path is in Python's standard library"),
        ("builtins:eval", "builtins is in Python's standard library"),
        ("subprocess:run", "subprocess is in Python's standard library"),
        ("things_of_mine:system", "system is from Python's standard library"),
        ("things_of_mine:os", "os is from Python's standard library"),
        ("things_of_mine:OrderedDict", "OrderedDict is from Python's standard library"),
        ("things_of_mine:os.system", "an import path is 'package.module:Name'"),
        ("things_of_mine", "an import path is 'package.module:Name'"),
        (":f", "an import path is 'package.module:Name'"),
        ("..things:f", "an import path is 'package.module:Name'"),
        ("things_of_mine:nothing", "things_of_mine has no 'nothing'; it has: .*factory, Mine"),
        ("things_of_mine:_hidden", "things_of_mine has no '_hidden'"),
        ("nowhere.at_all:f", "there is no module 'nowhere', neither installed nor in"),
        (
            "broken_thing:f",
            "importing broken_thing failed: ModuleNotFoundError: No module named 'no_such",
        ),
        ("failing_thing:f", "importing failing_thing failed: RuntimeError: no luck at all"),
    ],
)
def test_mistakes_are_one_line(path: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        imported(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_another_kind_of_thing() -> None:
    with pytest.raises(UserError, match="things_of_mine:NUMBER: it is a int, it must be callable"):
        imported_callable("things_of_mine:NUMBER")
    with pytest.raises(UserError, match=r"it is the class Mine, it must be a subclass of grkd\.objectives"):
        imported_class("things_of_mine:Mine", Objective)
    with pytest.raises(UserError, match="it is a function, it must be a subclass"):
        imported_class("things_of_mine:factory", Objective)
