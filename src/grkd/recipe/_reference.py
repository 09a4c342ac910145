"""The reference page of recipes, made from the types: every key with its value, default and meaning."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from grkd.recipe._read import TASKS
from grkd.recipe._words import expected

_HEAD = """\
# Recipe reference

Made by `grkd schema --markdown` from the types that read recipes; a test compares. `grkd schema` prints the JSON
schema, with which an editor completes keys. docs/method.md and `grkd methods NAME` have the options of methods.
"""


def reference() -> str:
    """The page in Markdown: one table per section of every task; a section that several tasks share comes once."""
    parts, seen = [_HEAD], set()
    for task, recipe in TASKS.items():
        parts.append(f"## task: {task}\n")
        for path, section in _sections(recipe, ""):
            if section in seen:
                parts.append(f"### {path}\n\nAs above: {section.__name__}.\n")
                continue
            seen.add(section)
            title = f"### {path} ({section.__name__})\n\n" if path else ""
            parts.append(f"{title}{inspect.cleandoc(section.__doc__ or '')}\n\n{_table(section)}")
    return "\n".join(parts)


def _sections(section: type, path: str) -> Iterator[tuple[str, type]]:
    """A section and those in it, depth first, with their dotted keys."""
    yield path, section
    for name, hint in get_type_hints(section).items():
        if name != "methods" and name in {field.name for field in fields(section)}:
            for inner in _inside(hint):
                yield from _sections(inner, f"{path}.{name}" if path else name)


def _inside(hint: Any) -> Iterator[type]:
    """The sections that a type names; methods are a list, whose entries have a page of their own."""
    if is_dataclass(hint) and isinstance(hint, type):
        yield hint
    else:
        for part in get_args(hint):
            yield from _inside(part)


def _table(section: Any) -> str:
    hints, meanings = get_type_hints(section, include_extras=True), _meanings(section)
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for field in fields(section):
        words = "a list of methods, such as [kd, grkd]" if field.name == "methods" else expected(hints[field.name])
        cells = [f"`{field.name}`", words, _default(field), meanings.get(field.name, "")]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(field: Field[Any]) -> str:
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    if value is MISSING:
        return "needed"
    if hasattr(value, "__dataclass_fields__"):
        return ""
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _meanings(section: type) -> dict[str, str]:
    """What the comments of a section's source say of its fields: behind them, and in lines before them."""
    inherited = [base for base in section.__mro__[1:2] if is_dataclass(base) and fields(base)]
    above_all = _meanings(inherited[0]) if inherited else {}
    source = textwrap.dedent(inspect.getsource(section)).splitlines()
    (tree,) = ast.parse("\n".join(source)).body
    assert isinstance(tree, ast.ClassDef)
    found = above_all
    for node in tree.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above: list[str] = []
        line = node.lineno - 2
        while source[line].strip().startswith("# "):
            above.insert(0, source[line].strip()[2:])
            line -= 1
        inside = "\n".join(source[node.lineno - 1 : node.end_lineno])
        behind = re.findall(r"  # (.*)", inside)
        found[node.target.id] = " ".join([*above, *behind])
    return found
