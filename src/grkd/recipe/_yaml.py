"""YAML as recipes use it: the numbers of YAML 1.2, no duplicate keys, and the line of every key."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from grkd.errors import UserError
from grkd.recipe._words import KeyPath, dotted

_TAG = "tag:yaml.org,2002:"
# In order: the first that matches decides. PyYAML's own are YAML 1.1's: 1e-4 is text, 010 is 8 and no is false.
_PLAIN_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}
_KNOWN_TAGS = {_TAG + name for name in (*_PLAIN_SCALARS, "str", "map", "seq")}


# A recipe has tens of keys. These bounds keep a file that is no recipe, and aliases of aliases, from taking minutes.
_MOST_CHARACTERS = 1 << 18
_MOST_VALUES = 10_000


class _TooMuch(Exception):
    """A text has more values than a recipe may have."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars below, and a bound on the number of values."""

    values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.values += 1
        if self.values > _MOST_VALUES:
            raise _TooMuch
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes what _Loader would take for a number; without anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Only double quotes escape these rare line breaks; PyYAML would write them as they are, and read them as spaces.
    style = '"' if re.search("[\x85\u2028\u2029\ufeff]", text) else None
    return dumper.represent_scalar(_TAG + "str", text, style=style)


_Dumper.add_representer(str, _text)
for _side in (_Loader, _Dumper):
    _side.yaml_implicit_resolvers = {}  # PyYAML's own are gone; add_implicit_resolver fills the new ones
for _name, (_pattern, _first) in _PLAIN_SCALARS.items():
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), list(_first))


def dump(value: Any) -> str:
    """YAML that `parse` reads as the same value."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def parse(text: str, place: Callable[[int], str]) -> tuple[Any, dict[KeyPath, int]]:
    """The value of a YAML text, and the line (from 1) of every key and list entry in it.

    place(line) names the text in errors. Raises UserError for broken YAML, duplicate keys, keys that are not text, tags
    other than those of JSON-like values, aliases that contain themselves, texts with a NUL or half a surrogate pair,
    and more text or values than a recipe has (those of an alias are counted wherever it stands).
    """
    lines: dict[KeyPath, int] = {}
    if len(text) > _MOST_CHARACTERS:
        raise UserError(f"{place(1)}: no recipe: {len(text):,} characters, at most {_MOST_CHARACTERS:,} are read")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, lines
        for count, (path, line) in enumerate(_lines(node, (), place, frozenset())):
            if count > _MOST_VALUES:
                raise _TooMuch
            lines[path] = line
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UserError(f"{place(mark.line + 1 if mark else 1)}: not valid YAML: {_problem(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{place(line)}: not valid YAML: character U+{error.character:04X} is not allowed") from None
    except RecursionError:
        raise UserError(f"{place(1)}: nested too deeply") from None
    except _TooMuch:
        raise UserError(
            f"{place(1)}: no recipe: more than {_MOST_VALUES:,} values; is there an alias of an alias?"
        ) from None


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join((error.problem or str(error)).split())
    if problem.startswith("but found"):
        problem = f"{error.context}, {problem}"
    return "a tab where YAML wants spaces" if r"'\t'" in problem else problem


def _lines(
    node: yaml.Node, path: KeyPath, place: Callable[[int], str], above: frozenset[int]
) -> Iterator[tuple[KeyPath, int]]:
    line = node.start_mark.line + 1
    if node.tag not in _KNOWN_TAGS:
        raise UserError(
            f"{place(line)}: {dotted(path)}the tag {node.tag.replace(_TAG, '!!')} is not allowed in a recipe"
        )
    if id(node) in above:
        raise UserError(f"{place(line)}: {dotted(path)}an alias that contains itself")
    above = above | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*path, index), item.start_mark.line + 1
            yield from _lines(item, (*path, index), place, above)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag not in (_TAG + "str", _TAG + "merge"):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise UserError(f"{place(line)}: {dotted(path)}the key {shown} is not text; put it in quotes")
            if isinstance(key, yaml.ScalarNode):
                _scalar(key, path, place)
            if key.value in seen:
                here = dotted((*path, key.value))
                raise UserError(f"{place(line)}: {here}the key appears twice, first in line {seen[key.value]}")
            seen[key.value] = line
            yield (*path, key.value), line
            yield from _lines(value, (*path, key.value), place, above)
    else:
        _scalar(node, path, place)


def _scalar(node: yaml.Node, path: KeyPath, place: Callable[[int], str]) -> None:
    """Refuse an explicit tag that its text does not fit (`!!int fast`), endless numbers, odd characters."""
    name = node.tag.removeprefix(_TAG)
    if name in ("int", "float", "bool") and (
        len(node.value) > 400 or not re.fullmatch(_PLAIN_SCALARS[name][0], node.value)
    ):
        raise UserError(f"{place(node.start_mark.line + 1)}: {dotted(path)}not a value of type {name}")
    if re.search("[\0\ud800-\udfff]", node.value):
        what = "a NUL character" if "\0" in node.value else "half of a surrogate pair"
        raise UserError(f"{place(node.start_mark.line + 1)}: {dotted(path)}{what}, which no file can hold")
