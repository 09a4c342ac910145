"""From YAML and `key=value` words to the typed tree; every mistake is one line that names its place."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from grkd.errors import UserError, nearest
from grkd.files import read_text
from grkd.recipe import _methods, _yaml
from grkd.recipe._checks import checks_of_methods, cross_checks
from grkd.recipe._classifier import ClassifierRecipe
from grkd.recipe._language import LanguageRecipe
from grkd.recipe._paths import placed
from grkd.recipe._rank import RankRecipe
from grkd.recipe._recipe import Recipe
from grkd.recipe._secrets import INSTEAD, secrets
from grkd.recipe._words import (
    KeyPath,
    Problem,
    dotted,
    expected,
    got,
    hint_at,
    keys_below,
    missing,
    section_of,
    unknown_key,
    wrong,
)

TASKS: dict[str, type[Recipe]] = {"language_model": LanguageRecipe, "classifier": ClassifierRecipe, "rank": RankRecipe}
_INSTEAD = {"steps": "epochs", "epochs": "steps"}
_LONGEST = 300  # characters of what a message says about a key
_EXPLAINED = 200  # unknown keys that are compared with the known ones
_COMMAND_LINE = 10**9  # sorts the words of the command line after every line of a file


def read(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file, with `key=value` words that replace or add keys.

    overrides: dotted keys, numbers for the entries of lists, values in YAML: "training.learning_rate=1e-3",
    "methods=[kd, grkd]", "methods.0.pairs.tau=0.5". They count as if they stood in the file; `steps` on the command
    line takes the place of `epochs` in the file and the reverse.
    A relative path starts where it is written: in the file at the file's folder, on the command line at the current
    folder. All paths come out absolute, see `placed`.
    Raises UserError for the first mistake (and the number of the others), with file and line or the `key=value` word.
    """
    source = _Source.load(path)
    for number, word in enumerate(overrides):
        source.override(word, _COMMAND_LINE + number)
    for key in secrets(source.raw):  # before any message could show one
        where = "on the command line" if source.from_command_line(key) else source.place(key)
        raise UserError(f"{where}: {dotted(key)}{INSTEAD}")
    recipe, problems = _build(source.raw)
    if recipe is None or problems:
        raise source.error(problems)
    return placed(recipe, lambda key: Path.cwd() if source.from_command_line(key) else path.parent)


@dataclass(frozen=True)
class _Source:
    """The raw mapping, and for each key in it where it was written: a number to sort by, and the place in words."""

    raw: dict[str, Any]
    origins: dict[KeyPath, tuple[int, str]]

    @classmethod
    def load(cls, path: Path) -> "_Source":
        text = read_text(path, "the recipe's YAML file")
        raw, lines = _yaml.parse(text, lambda line: f"{path}:{line}")
        if not isinstance(raw, dict):
            shown = "an empty file" if raw is None else "a list" if isinstance(raw, list) else got(raw)
            raise UserError(f"{path}: expected a mapping of keys (task, output, teacher, ...), got {shown}")
        places = {key: (line, f"{path}:{line}") for key, line in lines.items()}
        return cls(raw, {(): (0, str(path)), **places})

    def override(self, word: str, order: int) -> None:
        """Set one key from the command line."""
        key, equals, value = word.partition("=")
        here = f"{got(key)[1:-1]}{equals}{'...' if len(value) > 40 else value} on the command line"
        if not equals or not all(key.split(".")):
            raise UserError(f"{here}: expected key=value, such as training.epochs=3")
        parsed, _ = _yaml.parse(value, lambda _: here)
        if "methods" in self.raw:
            self.raw["methods"] = _methods.spelt_out(self.raw["methods"])
        path: KeyPath = ()
        inside: Any = self.raw
        *above, last = _keys(key)
        for name in above:
            index = _index(inside, name, path, here)
            if isinstance(inside, dict) and inside.get(index) is None:
                inside[index] = {}
                self.origins[(*path, index)] = (order, here)
            path, inside = (*path, index), inside[index]
        index = _index(inside, last, path, here)
        inside[index] = parsed
        instead = _INSTEAD.get(last) if path[-1:] == ("training",) else None
        if instead and self.origins.get((*path, instead), (order, ""))[0] < _COMMAND_LINE:
            inside.pop(instead, None)
        for known in [known for known in self.origins if known[: len(path) + 1] == (*path, index)]:
            del self.origins[known]
        self.origins[(*path, index)] = (order, here)

    def error(self, problems: list[Problem]) -> UserError:
        """The problems in one line, as many as fit; unknown keys come first, since they explain missing ones."""
        explained = {(*problem.path[:-1], problem.meant) for problem in problems if problem.meant}
        left = [problem for problem in problems if problem.unknown or problem.path not in explained]
        first, *others = sorted(left, key=lambda problem: (not problem.unknown, self._origin(problem.path)[0]))
        text, shown = f"{dotted(first.path)}{first.text}", 1
        for other in others:
            line = self._origin(other.path)[0]
            place = "" if line >= _COMMAND_LINE else f"line {line}: "
            longer = f"{text}; {place}{dotted(other.path)}{other.text}"
            if len(longer) > _LONGEST:
                break
            text, shown = longer, shown + 1
        more = f" (and {len(left) - shown} more)" if len(left) > shown else ""
        return UserError(
            f"{self.place(first.path)}: {text if len(text) <= _LONGEST else text[:_LONGEST] + '...'}{more}"
        )

    def from_command_line(self, path: KeyPath) -> bool:
        """Whether the value at a key was given as a `key=value` word."""
        return self._origin(path)[0] >= _COMMAND_LINE

    def place(self, path: KeyPath) -> str:
        """File and line of a key, or the `key=value` word."""
        return self._origin(path)[1]

    def _origin(self, path: KeyPath) -> tuple[int, str]:
        return next(self.origins[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.origins)


def _keys(key: str) -> list[str]:
    """The keys of a dotted word; what follows a method's number is one option, such as pairs.tau."""
    keys = key.split(".")
    return [*keys[:2], ".".join(keys[2:])] if keys[0] == "methods" and len(keys) > 2 else keys


def _index(inside: Any, name: str, path: KeyPath, here: str) -> Any:
    """The key of a mapping or the number of a list's entry. Raises UserError if there is none."""
    if isinstance(inside, dict):
        return name
    if not isinstance(inside, list):
        raise UserError(f"{here}: {dotted(path)}has no keys in it, it is {got(inside)}")
    if not name.isdecimal() or int(name) >= len(inside):
        raise UserError(f"{here}: {dotted(path)}expected the number of an entry, 0 to {len(inside) - 1}, got {name!r}")
    return int(name)


def _build(raw: dict[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    task = raw.get("task")
    if "task" not in raw:
        known = [field.name for section in TASKS.values() for field in fields(section)]
        misspelt = next((key for key in raw if nearest(key, known) == "task"), None)
        found = unknown_key((misspelt,), ["task"]) if misspelt else missing(("task",), f"one of {', '.join(TASKS)}")
        return None, [found]
    if not isinstance(task, str) or task not in TASKS:
        return None, [wrong(("task",), Literal[tuple(TASKS)], task)]
    problems = _methods.names(raw["methods"]) if "methods" in raw else []
    plain = {**raw, "methods": []} if "methods" in raw else raw
    try:
        # JSON, not Python: in pydantic's strict mode a mapping becomes a dataclass only there.
        recipe = _checker(task)(json.dumps(plain))
    except ValidationError as error:
        return None, [*_explained(error, raw, TASKS[task]), *problems, *_methods.misspelt(raw.get("methods"))]
    crossed = list(cross_checks(recipe, raw))
    if problems or crossed:
        return None, [*crossed, *problems, *_methods.misspelt(raw["methods"])]
    # Last, and not beside other mistakes: to know what an option may be is to import its file and torch, 2 s.
    methods, problems = _methods.check(raw["methods"], task)
    if problems:
        return None, problems
    recipe = replace(recipe, methods=methods)
    return recipe, list(checks_of_methods(recipe))


def _explained(error: ValidationError, raw: dict[str, Any], section: type[Recipe]) -> Iterator[Problem]:
    """pydantic's findings in our words, one a key."""
    seen: set[KeyPath] = set()
    for finding in error.errors(include_url=False, include_context=False):
        absent = finding["type"] == "missing"
        path, value = _followed(raw, finding["loc"][:-1] if absent else finding["loc"])
        if absent:
            path = (*path, finding["loc"][-1])
        if path in seen:
            continue
        seen.add(path)
        if absent:
            words = _methods.EXPECTED if path == ("methods",) else expected(hint_at(section, path, raw))
            yield missing(path, words)
        elif finding["type"] == "unexpected_keyword_argument" and len(seen) > _EXPLAINED:
            yield Problem(path, "unknown key", unknown=True)
        elif finding["type"] == "unexpected_keyword_argument":
            known = [field.name for field in fields(section_of(hint_at(section, path[:-1], raw)))]
            yield unknown_key(path, known, elsewhere=keys_below(section))
        else:
            yield wrong(path, hint_at(section, path, raw), value)


def _followed(raw: Any, location: KeyPath) -> tuple[KeyPath, Any]:
    """As much of pydantic's location as is in the recipe (it names members of unions too), and the value there."""
    path: KeyPath = ()
    for key in location:
        if isinstance(key, str) and key.startswith("<"):  # the tag of a section that is told by its keys
            continue
        inside = key in raw if isinstance(raw, dict) else isinstance(raw, list) and isinstance(key, int)
        if not inside:
            break
        path, raw = (*path, key), raw[key]
    return path, raw


@cache
def _checker(task: str) -> Callable[[str], Any]:
    return TypeAdapter(TASKS[task]).validate_json
