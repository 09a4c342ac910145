"""Options that carry their own help, and what is wrong with values that are given for them.

An option is a field of a frozen dataclass: tau: float = option(1.0, "scale of score differences").
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from grkd import errors

_LARGEST = 1e9  # of any weight, temperature or scale: beyond, float32 has no room for what is made of it

# Where a value stands: ("alpha_ceiling",), or ("ranking", 0, "tau") inside a list of parts.
OptionPath = tuple[str | int, ...]


def option(default: Any = MISSING, help: str = "", *, choices: Iterable[str] = (), operational: bool = False) -> Any:
    """A field of a dataclass of options, of a method, a part or a ranker.

    Parameters
    ----------
    default : Any
        Its default; without one the option must be given.
    help : str
        One line.
    choices : iterable of str
        Names that a text may be, if its type is no Literal.
    operational : bool
        Whether the option says how a ranker works, not what it finds: a change of it makes no other result.

    Returns
    -------
    dataclasses.Field
        The field.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from grkd.objectives import option
    >>> @dataclass(frozen=True)
    ... class Options:
    ...     tau: float = option(1.0, "scale of score differences")
    >>> Options().tau
    1.0
    """
    return field(default=default, metadata={"help": help, "choices": tuple(choices), "operational": operational})


@dataclass(frozen=True)
class Option:
    """One option of a method or a part.

    Parameters
    ----------
    name : str
        As it is written in recipes.
    hint : type
        float, int, bool, str or a Literal.
    default : Any
        Its default.
    help : str
        One line.
    choices : tuple of str
        Names that a text may be, if its type is no Literal.
    """

    name: str
    hint: Any
    default: Any
    help: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """What is wrong with one given option.

    Parameters
    ----------
    path : tuple of str and int
        Where the option stands, such as ("ranking", 0, "tau").
    value : Any
        What was given.
    text : str, optional
        Anything else that is wrong, in words.
    hint : type, optional
        The type wanted, if the value is of another.
    known : tuple of str, optional
        All names that there are, if the name is the mistake.

    Examples
    --------
    >>> from grkd import objectives
    >>> [mistake.sentence() for mistake in objectives.method("kd").mistakes({"temprature": 2.0})][0][:60]
    "unknown option 'temprature' (did you mean 'temperature'?); k"
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


def options_of(owner: type) -> Mapping[str, Option]:
    """The options of a dataclass.

    Parameters
    ----------
    owner : type
        A method or a part.

    Returns
    -------
    mapping of str to Option
        By name.

    Examples
    --------
    >>> from grkd import objectives
    >>> objectives.options_of(objectives.method("kd"))["temperature"].default
    2.0
    """
    return _read_once(owner)


@cache
def _read_once(owner: Any) -> Mapping[str, Option]:
    """Types are evaluated at every call of get_type_hints, which takes milliseconds."""
    hints = get_type_hints(owner)
    found = {}
    for one in fields(owner):
        words = (one.metadata.get("help", ""), one.metadata.get("choices", ()))
        found[one.name] = Option(one.name, hints[one.name], one.default, *words)
    return MappingProxyType(found)


def mistakes(known: Mapping[str, Option], given: Mapping[str, Any], place: OptionPath = ()) -> list[Mistake]:
    """Unknown names and values of another type."""
    found = []
    for name, value in given.items():
        if name not in known:
            found.append(Mistake((*place, name), value, known=tuple(known)))
        elif known[name].hint is float and type(value) in (int, float) and _LARGEST < abs(value) < math.inf:
            found.append(Mistake((*place, name), value, text=f"must be at most {_LARGEST:g}, got {value:g}"))
        elif wanted(known[name].hint, value):
            found.append(Mistake((*place, name), value, hint=known[name].hint))
    return found


def converted(known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values in their own type: whole numbers as floats if the option is one."""
    return {name: float(value) if known[name].hint is float else value for name, value in given.items()}


def wanted(hint: Any, value: Any) -> str | None:
    """What an option of this type must be, if the value is something else; other types are the method's to check.

    YAML gives a text for `"2"` and for `yes` in quotes: taken as they are, they would fail late or count as true.

    Parameters
    ----------
    hint : type
        float, int, bool, str or a Literal.
    value : Any
        What was given.

    Returns
    -------
    str or None
        Such as "a finite number"; None if the value fits.

    Examples
    --------
    >>> from grkd import objectives
    >>> objectives.wanted(float, "2")
    'a finite number'
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
    """The known name that was probably meant; of dotted names the last word counts too.

    Parameters
    ----------
    word : str
        What was given.
    known : iterable of str
        Names that there are.

    Returns
    -------
    str or None
        None if nothing is near.

    Examples
    --------
    >>> from grkd import objectives
    >>> objectives.nearest("temprature", ["temperature", "weight"])
    'temperature'
    """
    names = list(known)
    if near := errors.nearest(word, names):
        return near
    last = {name.rpartition(".")[2]: name for name in reversed(names)}
    near = errors.nearest(word.rpartition(".")[2], last, at_least=0.75)
    return last[near] if near else None


def meant(word: str, known: Iterable[str]) -> str:
    """ " (did you mean 'tau'?)" or nothing."""
    near = nearest(word, known)
    return f" (did you mean {near!r}?)" if near else ""
