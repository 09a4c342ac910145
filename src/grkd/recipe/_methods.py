"""The methods of a recipe: names with options, checked by building each method."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from grkd import objectives
from grkd.errors import UserError, nearest
from grkd.files import read_json
from grkd.imports import is_import_path
from grkd.recipe._sections import Combine, Method
from grkd.recipe._words import KeyPath, Problem, got, missing, unknown_key, wrong

FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")

_LONGEST_LABEL = 100  # a folder's name has at most 255 bytes, and gets "-seed<number>.partial" behind it
# Keys of a method's entry that are none of its options.
_OWN = ("name", "label", "rankers", "combine")
_TAKEN = {"before": "the student before training", "teacher": "the teacher"}

EXPECTED = "a list of methods, such as [kd, grkd]"


def spelt_out(entries: Any) -> Any:
    """`kd` as {name: kd} where a list of methods has a mere name, so that an option can be set in it."""
    if not isinstance(entries, list):
        return entries
    return [{"name": entry} if isinstance(entry, str) else entry for entry in entries]


def names(entries: Any) -> list[Problem]:
    """What is wrong with the list and with its names and labels. Needs no method's file, hence no torch."""
    if not isinstance(entries, list) or not entries:
        shown = "an empty list" if entries == [] else got(entries)
        return [Problem(("methods",), f"expected {EXPECTED}, got {shown}")]
    return [problem for index, entry in enumerate(spelt_out(entries)) for problem in _name(index, entry)]


def check(entries: list[Any], task: str) -> tuple[list[Method], list[Problem]]:
    """The methods of a list in which `names` finds nothing wrong, and what is wrong with their options."""
    methods: list[Method] = []
    problems: list[Problem] = []
    labels: dict[str, int] = {}
    for index, entry in enumerate(spelt_out(entries)):
        method, found = _one(index, entry, task)
        problems += found
        if method is None:
            continue
        if method.label in labels:
            first = f"methods.{labels[method.label]}"
            text = f"the label {method.label!r} is that of {first} too; give each its own label"
            problems.append(Problem(("methods", index), text))
        labels.setdefault(method.label, index)
        methods.append(method)
    return methods, problems


def misspelt(entries: Any) -> Iterator[Problem]:
    """Options that a method has in no form, by the shipped schema: to ask the method itself imports torch, 2 s."""
    known = _options_by_method()
    for index, entry in enumerate(spelt_out(entries) if isinstance(entries, list) else []):
        named = known.get(str(entry.get("name"))) if isinstance(entry, dict) else None
        if named is None:
            continue
        starts = {name.split(".")[0] for name in named}
        for key in entry:
            if "." not in str(key) and key not in starts:
                yield unknown_key(("methods", index, key), named)


def _options_by_method() -> dict[str, list[str]]:
    path = Path(__file__).parents[1] / "recipe.schema.json"
    methods = read_json(path)["$defs"]["Method"]["anyOf"][1:]
    return {each["properties"]["name"]["const"]: list(each["properties"]) for each in methods}


def _name(index: int, entry: Any) -> list[Problem]:
    path = ("methods", index)
    if not isinstance(entry, dict):
        return [Problem(path, f"expected a method's name or a mapping with name, got {got(entry)}")]
    known = objectives.names()
    name, label = entry.get("name"), entry.get("label")
    if "name" not in entry:
        misspelt = next((key for key in entry if key != "label" and nearest(key, ["name"])), None)
        if misspelt:
            return [unknown_key((*path, misspelt), ["name", "label"])]
        return [missing((*path, "name"), f"one of {', '.join(known)}")]
    if not isinstance(name, str) or not (name in known or is_import_path(name)):
        return [wrong((*path, "name"), Literal[tuple(known)], name)]
    if "label" in entry and not (isinstance(label, str) and label):
        return [wrong((*path, "label"), str, label)]
    if isinstance(label, str):
        return [Problem((*path, "label"), text) for text in _label_mistakes(label)]
    return []


def _label_mistakes(label: str) -> Iterator[str]:
    """A label names folders of the run and rows of its tables."""
    if not FOLDER_NAME.fullmatch(label):
        yield f"expected letters, digits and any of . _ + - (it names a folder), got {got(label)}"
    elif len(label) > _LONGEST_LABEL:
        yield f"expected at most {_LONGEST_LABEL} characters (it names a folder), got {len(label)}"
    elif label.lower() in _TAKEN:
        yield f"{label!r} stands for {_TAKEN[label.lower()]} in a run's folders and tables; choose another label"


def _one(index: int, entry: dict[str, Any], task: str) -> tuple[Method | None, list[Problem]]:
    path = ("methods", index)
    name, label = entry["name"], entry.get("label")
    problems: list[Problem] = []
    given = {key: entry[key] for key in entry if key not in _OWN}
    problems += _rankers(path, entry, task)
    try:
        chosen = objectives.method(name)
    except UserError as error:
        return None, [*problems, Problem((*path, "name"), str(error))]
    problems += [_problem(path, mistake) for mistake in chosen.mistakes(given)]
    if problems:
        return None, problems
    try:
        objective = chosen.built(given)
        if task == "language_model":
            objective.check_for_tokens()
    except UserError as error:
        return None, [Problem(path, str(error))]
    # Spelt out here already: what a preset stands for is what a run is known by, and what a report shows.
    options = chosen.spelt_out(given)
    own = {key: entry[key] for key in ("rankers", "combine") if entry.get(key) is not None}
    return Method(name=name, label=objectives.method_name(name) if label is None else label, options=options, **own), []


def _rankers(path: KeyPath, entry: dict[str, Any], task: str) -> Iterator[Problem]:
    """What is wrong with a method's own rankers, before any is loaded."""
    if task != "language_model":
        for key in ("rankers", "combine"):
            if key in entry:
                yield Problem((*path, key), "only for task: language_model; remove it")
        return
    rankers, combine = entry.get("rankers"), entry.get("combine")
    if rankers is not None and not (isinstance(rankers, list) and rankers):
        yield Problem(
            (*path, "rankers"), f"expected a list of rankers, such as [verifier, log_prob], got {got(rankers)}"
        )
    if combine is not None and combine not in get_args(Combine):
        yield wrong((*path, "combine"), Combine, combine)


def _problem(path: KeyPath, mistake: objectives.Mistake) -> Problem:
    """A method's word on an option in the recipe's words."""
    place = (*path, *mistake.path)
    if mistake.known is not None:
        return unknown_key(place, [*mistake.known, *_OWN] if len(mistake.path) == 1 else mistake.known)
    if mistake.text is not None:
        return Problem(place, mistake.text)
    return wrong(place, mistake.hint, mistake.value)
