"""A recipe back as plain values and YAML, and the JSON schema that editors complete from."""

from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin

from pydantic import Field, TypeAdapter

from grkd import objectives
from grkd.recipe import _yaml
from grkd.recipe._recipe import Recipe
from grkd.recipe._sections import Combine, Method, Section, Training


def to_plain(section: Section, *, empty: bool = False) -> dict[str, Any]:
    """A recipe, or one section of it, as JSON-like values.

    Defaults are written out, methods are as in YAML. Keys without a value are left out; empty: they are null.
    """
    plain: dict[str, Any] = _plain(section, empty)
    return plain


def dump(recipe: Recipe, *, empty: bool = False) -> str:
    """A recipe as YAML; reading it gives the same recipe. empty: keys without a value are written, as null."""
    return _yaml.dump(to_plain(recipe, empty=empty))


def schema() -> dict[str, Any]:
    """The JSON schema of recipes, for completion in editors."""
    tree = TypeAdapter(Annotated[Recipe, Field(discriminator="task")]).json_schema()
    tree["$defs"]["Method"] = {"anyOf": [{"enum": objectives.names()}, *map(_method_schema, objectives.names())]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "grkd recipe", **tree}


def _plain(value: Any, empty: bool = False) -> Any:
    if isinstance(value, Method):
        own = {"rankers": value.rankers, "combine": value.combine}
        given = {name: deepcopy(inner) for name, inner in own.items() if inner is not None}
        return {"name": value.name, "label": value.label, **given, **deepcopy(value.options)}
    if is_dataclass(value):
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        if isinstance(value, Training) and (value.steps or value.minutes) is not None:
            del given["epochs"]  # beside these it says nothing, and is refused together with them
        return {name: _plain(inner, empty) for name, inner in given.items() if empty or inner is not None}
    return [_plain(inner, empty) for inner in value] if isinstance(value, list) else deepcopy(value)


def _method_schema(name: str) -> dict[str, Any]:
    """One method; of grkd, the dotted options of every preset's parts too."""
    chosen = objectives.method(name)
    starts: list[dict[str, Any]] = [{"preset": preset} for preset in objectives.PRESETS] if name == "grkd" else [{}]
    known = {key: option for given in starts for key, option in chosen.options(given).items()}
    named = {key: option for key, option in known.items() if not any(map(str.isdecimal, key.split(".")))}
    return {
        "type": "object",
        "properties": {
            "name": {"const": name},
            "label": {"type": "string"},
            "rankers": {"type": "array"},
            "combine": {"enum": list(get_args(Combine))},
            **{key: _option_schema(option) for key, option in named.items()},
        },
        "required": ["name"],
        "additionalProperties": False,
    }


def _option_schema(option: objectives.Option) -> dict[str, Any]:
    of_parts = get_origin(option.hint) is tuple
    kind: dict[str, Any] = {"type": "array"} if of_parts else TypeAdapter(_plain_hint(option.hint)).json_schema()
    if of_parts:
        kind["items"] = {"type": "object", "properties": {"part": {"type": "string"}}, "required": ["part"]}
    return kind | ({"description": option.help} if option.help else {})


def _plain_hint(hint: Any) -> Any:
    """The part of a type that YAML can write: a pair form has a name there."""
    return str if str in get_args(hint) else hint
