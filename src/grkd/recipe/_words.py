"""What a message says: the key, what was expected in words, what was got, the nearest known key."""

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Discriminator, Tag

from grkd import objectives
from grkd.errors import nearest

KeyPath = tuple[str | int, ...]

_NOUNS = {
    bool: ("true or false", "values true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    dict: ("a mapping", "mappings"),
    list: ("a list", "lists"),
    tuple: ("a list", "lists"),
}
WHOLE_BELOW = 2**31  # every whole number is; only a larger one is told so
_LIMITS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}


@dataclass(frozen=True)
class Problem:
    """A mistake at a key; `unknown` if the key itself is the mistake, `meant` the key that it was taken for."""

    path: KeyPath
    text: str
    unknown: bool = False
    meant: str | None = None


def dotted(path: KeyPath) -> str:
    """("methods", 0, "tau") -> "methods.0.tau: "; empty for the whole file."""
    keys = [key if isinstance(key, str) and key.isprintable() else repr(key) for key in path]
    if len(keys) > 8:  # of free mappings alone
        keys = [*keys[:4], "...", *keys[-3:]]
    return ".".join(key if len(key) <= 40 else f"{key[:37]}..." for key in keys) + ": " * bool(path)


def got(value: Any) -> str:
    """A value as a reader of the recipe knows it, in at most about 60 characters."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        value = value[:20]
    shown = repr(value[:100] if isinstance(value, str) else value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def unknown_key(path: KeyPath, known: Iterable[str], *, elsewhere: Iterable[str] = ()) -> Problem:
    """An unknown key: the nearest known one, else the same key in another section (dotted), else all that are known."""
    word, listed = str(path[-1]), list(known)
    meant = objectives.nearest(word, listed)
    # The same key may be in several sections: the outermost, and of those `training`, is the likeliest.
    # Not the place itself, where another kind of section may stand (a teacher's model has a dtype, its server none).
    here = ".".join(map(str, path))
    others = [key for key in elsewhere if key.split(".")[-1] == word and key != here]
    other = min(others, key=lambda key: (key.count("."), not key.startswith("training.")), default=None)
    if meant or other:
        return Problem(path, f"unknown key; did you mean {meant or other!r}?", unknown=True, meant=meant)
    return Problem(path, f"unknown key; known: {', '.join(listed)}", unknown=True)


def missing(path: KeyPath, expected_words: str) -> Problem:
    return Problem(path, f"missing (expected {expected_words})")


def wrong(path: KeyPath, hint: Any, value: Any) -> Problem:
    """A value that is not of the hinted type."""
    near = nearest(value, choices(hint), at_least=0.75) if isinstance(value, str) else None
    tail = f"; did you mean {near!r}?" if near else ""
    words = expected(hint)
    if type(value) is int and value >= WHOLE_BELOW and "whole number" in words:
        words = "a smaller whole number"
    return Problem(path, f"expected {words}, got {got(value)}{tail}")


def choices(hint: Any) -> list[str]:
    """The words of a Literal, also inside Optional and Annotated."""
    if get_origin(hint) is Literal:
        return [word for word in get_args(hint) if isinstance(word, str)]
    return [word for part in get_args(hint) for word in choices(part)]


def expected(hint: Any, *, many: bool = False) -> str:
    """A type in words: Annotated[float, Field(gt=0)] -> "a number above 0"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([expected(arguments[0], many=many), *_limits(arguments[1:])])
    if origin in (Union, UnionType):
        return " or ".join(expected(part, many=many) for part in arguments if part is not NoneType)
    if origin is Literal:
        words = [got(word) if len(arguments) == 1 else str(word) for word in arguments]
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    if origin in (list, tuple) and not many and arguments[0] is not Any:
        return f"a list of {expected(arguments[0], many=True)}"
    if is_dataclass(hint):
        return _section(hint)
    return _NOUNS.get(origin or hint, ("another value", "other values"))[many]


def _limits(metadata: Iterable[Any]) -> list[str]:
    """The limits of a pydantic Field in words."""
    limits = [limit for field in metadata for limit in getattr(field, "metadata", ())]
    named = [(word, getattr(limit, kind, WHOLE_BELOW)) for limit in limits for kind, word in _LIMITS.items()]
    found = [
        f"{word} {value:g}" if isinstance(value, float) else f"{word} {value}"
        for word, value in named
        if value != WHOLE_BELOW
    ]
    found += ["that is not empty" for limit in limits if hasattr(limit, "min_length")]
    return [" and ".join(found)] if found else []


def _section(section: Any) -> str:
    names = [field.name for field in fields(section)]
    required = [f.name for f in fields(section) if f.default is MISSING and f.default_factory is MISSING]
    listed = " and ".join(required) if required else ", ".join(names[:3]) + ", ..." * (len(names) > 3)
    return f"a mapping with {listed}"


def section_of(hint: Any) -> Any:
    """The dataclass that a hint names, also inside Optional; None if it names none."""
    return next((part for part in (hint, *get_args(hint)) if is_dataclass(part) and isinstance(part, type)), None)


def of_value(hint: Any, value: Any) -> Any:
    """Of a union whose members are told apart by their keys, the member that this value is meant to be."""
    metadata = getattr(hint, "__metadata__", ())
    told = next((each for each in metadata if isinstance(each, Discriminator)), None)
    if told is None:
        return hint
    assert callable(told.discriminator)
    tag = told.discriminator(value)
    members = {
        each.tag: member
        for member in get_args(get_args(hint)[0])
        for each in getattr(member, "__metadata__", ())
        if isinstance(each, Tag)
    }
    return get_args(members[str(tag)])[0]


def hint_at(section: Any, path: KeyPath, raw: Any) -> Any:
    """The type of a key's value; Any inside free mappings. raw: the recipe, as far as it has these keys."""
    hint, value = section, raw
    for key in path:
        inside = isinstance(value, dict) and key in value
        inside = inside or (isinstance(value, list) and isinstance(key, int) and key < len(value))
        value = value[key] if inside else None
        inner = section_of(hint)
        if inner is not None:
            hint = get_type_hints(inner, include_extras=True).get(str(key), Any)
        else:
            parts = (part for part in (hint, *get_args(hint)) if get_origin(part) in (list, dict))
            hint = next((get_args(part)[-1] for part in parts if get_args(part)), Any)
        hint = of_value(hint, value)
    return hint


def keys_below(section: Any) -> list[str]:
    """Every dotted key of a section and the sections in it (not those in lists)."""
    found = []
    for name, hint in get_type_hints(section, include_extras=True).items():
        inner = section_of(of_value(hint, {}))
        if name in {field.name for field in fields(section)}:
            found += [name, *(f"{name}.{key}" for key in (keys_below(inner) if inner else ()))]
    return found
