"""The public face: every name says what it takes and gives, and its examples run."""

import dataclasses
import doctest
import inspect
import re
from types import ModuleType
from typing import Any

import pytest

import grkd
from grkd import groups, losses, objectives, rankers, schedules, testing

MODULES = (grkd, groups, losses, objectives, rankers, schedules, testing)
EXAMPLES = {"GRKDLoss", "GRKDTrainer", "GRKDConfig", "Objective", "PairForm", "Ranker", "Batch", "Term"}


def public() -> dict[str, Any]:
    """Functions and classes with a docstring of their own, by module and name."""
    found = {}
    for module in MODULES:
        for name in getattr(module, "__all__", None) or own_names(module):
            value = getattr(module, name)
            if inspect.isroutine(value) or (inspect.isclass(value) and issubclass(value, object)):
                found[f"{module.__name__}.{name}"] = value
    return found


def own_names(module: ModuleType) -> list[str]:
    defined = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    return sorted(name for name in defined if not name.startswith("_"))


PUBLIC = public()


def sections(text: str) -> dict[str, str]:
    """The text of each numpydoc section, and of what stands before the first."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}$", text, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def parameters(value: Any) -> set[str]:
    """Names that the docstring must explain: arguments, or the fields of a dataclass of values."""
    if inspect.isclass(value):
        own = vars(value).get("__annotations__", {}) if dataclasses.is_dataclass(value) else {}
        fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        return {field.name for field in fields if field.init and field.name in own}
    return set(inspect.signature(value).parameters)


def exempt(value: Any) -> bool:
    """Errors and protocols say all in their first line; grkd's options have their help on each field."""
    return inspect.isclass(value) and (
        issubclass(value, Exception) or getattr(value, "_is_protocol", False) or value is objectives.GRKD
    )


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_its_sections(name: str) -> None:
    value = PUBLIC[name]
    found = sections(inspect.getdoc(value) or "")
    first, _, rest = found[""].partition("\n")
    assert first.endswith((".", ":")) or rest.strip() == "" or first, name
    assert first, f"{name}: no docstring"
    if exempt(value):
        return
    assert len(first) <= 120
    listed = found.get("Parameters", "") + found.get("Attributes", "")
    explained = set(re.split(r"[,\s*]+", " ".join(re.findall(r"^(\S.*?)(?: :|$)", listed, flags=re.MULTILINE))))
    # A field of GRKDConfig that only repairs a default of transformers needs no explanation.
    assert parameters(value) - {"warmup_steps"} <= explained, name
    if inspect.isroutine(value):
        nothing = inspect.signature(value).return_annotation in (None, "None")
        assert nothing or "Returns" in found or "Yields" in found, name
    if inspect.isroutine(value) or value.__name__ in EXAMPLES:
        assert ">>> " in found.get("Examples", ""), name


def test_examples_run() -> None:
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner(verbose=False)
    for name, value in PUBLIC.items():
        for test in finder.find(value, name, globs={}):
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0
    assert runner.tries > 150
