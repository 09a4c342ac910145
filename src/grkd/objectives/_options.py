"""Options that carry their own help, and what is wrong with values that are given for them.

An option is a field of a frozen dataclass: tau: float = option(1.0, "scale of score differences").
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

# Where a value stands: ("alpha_ceiling",), or ("ranking", 0, "tau") inside a list of parts.
OptionPath = tuple[str | int, ...]


def option(default: Any, help: str, *, choices: Iterable[str] = ()) -> Any:
    """A field with a default and one line of help; choices: names that a text may be, where its type is no Literal."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices)})


@dataclass(frozen=True)
class Option:
    """One option of a method or a part."""

    name: str
    hint: Any
    default: Any
    help: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """What is wrong with one given option.

    known: all names that there are, where the name is the mistake. hint: the type wanted, where the value is of
    another. text: anything else, in words.
    """

    path: OptionPath
    value: Any = None
    text: str | None = None
    hint: Any = None
    known: tuple[str, ...] | None = None

    @property
    def place(self) -> str:
        return ".".join(str(key) for key in self.path)

    def sentence(self) -> str:
        """tau must be a finite number, got '2'."""
        if self.known is not None:
            near = meant(str(self.path[-1]), self.known)
            return f"unknown option {self.place!r}{near}; known: {listed(self.known) or 'it has none'}"
        if self.text is not None:
            return f"{self.place}: {self.text}"
        return f"{self.place} must be {wanted(self.hint, self.value)}, got {self.value!r}"


def options_of(owner: type) -> dict[str, Option]:
    """The options of a dataclass by name."""
    hints = get_type_hints(owner)
    found = {}
    for one in fields(owner):
        words = (one.metadata.get("help", ""), one.metadata.get("choices", ()))
        found[one.name] = Option(one.name, hints[one.name], one.default, *words)
    return found


def mistakes(known: Mapping[str, Option], given: Mapping[str, Any], place: OptionPath = ()) -> list[Mistake]:
    """Unknown names and values of another type."""
    found = []
    for name, value in given.items():
        if name not in known:
            found.append(Mistake((*place, name), value, known=tuple(known)))
        elif wanted(known[name].hint, value):
            found.append(Mistake((*place, name), value, hint=known[name].hint))
    return found


def converted(known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values in their own type: whole numbers as floats where the option is one."""
    return {name: float(value) if known[name].hint is float else value for name, value in given.items()}


def wanted(hint: Any, value: Any) -> str | None:
    """What an option of this type must be, if the value is something else; other types are the method's to check.

    YAML gives a text for `"2"` and for `yes` in quotes: taken as they are, they would fail late or count as true.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and not (number and math.isfinite(value)):
        return "a finite number"
    if hint is int and not (number and isinstance(value, int)):
        return "a whole number"
    if hint is bool and not isinstance(value, bool):
        return "true or false"
    if hint is str and not isinstance(value, str):
        return "text"
    if get_origin(hint) is Literal and value not in get_args(hint):
        return "one of " + ", ".join(map(str, get_args(hint)))
    return None


def listed(names: Iterable[str]) -> str:
    """Names separated by commas, at most about 240 characters of them."""
    text = ", ".join(names)
    return text if len(text) <= 240 else text[:240].rpartition(", ")[0] + ", ..."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant; of dotted names the last word counts too."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return near[0]
    last = {name.rpartition(".")[2]: name for name in reversed(names)}
    near = difflib.get_close_matches(word.rpartition(".")[2], last, n=1, cutoff=0.75)
    return last[near[0]] if near else None


def meant(word: str, known: Iterable[str]) -> str:
    """ " (did you mean 'tau'?)" or nothing."""
    near = nearest(word, known)
    return f" (did you mean {near!r}?)" if near else ""
