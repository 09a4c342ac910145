"""Properties of recipes: what is written is read back, every typo is caught, nothing but UserError escapes."""

import copy
import string
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from grkd import objectives, recipe
from grkd.errors import UserError
from grkd.recipe import ClassifierModel, ClassifierRecipe, LanguageRecipe, Method, Model, _yaml

SMALL = (Path(__file__).parents[1] / "recipes" / "digits.yaml").read_text(encoding="utf-8")
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
FREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
AWKWARD = [
    "1e-4",
    "1.",
    ".5",
    "null",
    "~",
    "",
    "true",
    "no",
    "010",
    "<<",
    "=",
    "- a",
    "a: b",
    "#",
    "\x85",
    "\ufeff",
    "&a",
]
PATHS = st.text(string.ascii_letters + " .'#:é", min_size=1, max_size=8).map(lambda text: f"/data/x{text.strip()}x")
NAMES = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8).map("hub/".__add__)
METHODS = st.sampled_from(
    [
        [
            {"name": "kd", "label": "kd"},
            {"name": "grkd", "label": "1e-4", "ranking": [{"part": "pairs", "tau": 0.5, "target": "soft"}]},
        ],
        [{"name": "grkd", "label": "a-b", "ranking": [{"part": "pairs", "group": "top", "group_size": 4}]}],
    ]
)
RANKERS = st.sampled_from(
    [
        ["log_prob", {"name": "verifier", "label": "1e-4", "weight": 2.5, "answer": "~", "kind": "math"}],
        [{"name": "data", "column": "\x85"}],
    ]
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Any valid value, as plain data, of a type of the tree."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = {
            kind: getattr(limit, kind)
            for part in arguments[1:]
            for limit in getattr(part, "metadata", ())
            for kind in ("gt", "ge", "lt", "le", "min_length")
            if hasattr(limit, kind)
        }
        plain = isinstance(arguments[0], type) and not is_dataclass(arguments[0])
        return _limited(arguments[0], limits) if plain else values(arguments[0])
    if origin in (Union, UnionType):
        return st.one_of(*[values(part) for part in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return METHODS if arguments[0] is Method else st.lists(values(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(TEXTS, values(arguments[1]), max_size=3)
    if hint is Any:
        return FREE
    if is_dataclass(hint):
        return sections(hint)
    return _limited(hint, {})


def _limited(kind: type, limits: dict[str, Any]) -> st.SearchStrategy[Any]:
    low, high = limits.get("gt", limits.get("ge")), limits.get("lt", limits.get("le"))
    if kind is float:
        ends = {"exclude_min": "gt" in limits, "exclude_max": "lt" in limits}
        return st.floats(low, high, allow_nan=False, allow_infinity=False, **ends)
    if kind is int:
        return st.integers(low, high if high is None or "le" in limits else high - 1)
    texts = (st.sampled_from(AWKWARD) | TEXTS).filter(lambda text: len(text) >= limits.get("min_length", 0))
    return {bool: st.booleans(), str: texts, NoneType: st.none()}[kind]


@cache
def sections(section: type) -> st.SearchStrategy[dict[str, Any]]:
    own = {
        "train": PATHS,
        "heldout": PATHS,
        "questions": PATHS,
        "curve_questions": PATHS,
        "image_folder": PATHS,
        "weights": PATHS,
        "teachers": PATHS,
        "folder": PATHS,
        "model": NAMES,
        "output": PATHS,
        "rankers": st.none() | RANKERS,
    }
    if section is LanguageRecipe:  # a served teacher's keys ask for one another: tests/language/test_served_teacher.py
        own["teacher"] = sections(Model)
    if section is ClassifierRecipe:  # an order of labels: tests/classify/test_ranked_labels.py
        own["teacher"] = sections(ClassifierModel)
    hints = get_type_hints(section, include_extras=True)
    return st.fixed_dictionaries({f.name: own.get(f.name, values(hints[f.name])) for f in fields(section)})


def consistent(plain: dict[str, Any]) -> dict[str, Any]:
    """The recipe with what the cross-checks ask for, without keys of no value."""
    plain["seeds"] = sorted(set(plain["seeds"])) or [0]
    student, teacher, data = plain["student"], plain["teacher"], plain["data"]
    if plain["task"] == "language_model":
        student["layers"] = sorted(set(student["layers"] or [0]))
        for key in ("model", "gguf_file", "revision", "config"):
            student[key] = None
        if plain["training"]["float32_masters"]:
            student.update(dtype="bfloat16", lora=None)
        if teacher["dtype"] == "float8":
            teacher["placement"] = "whole"
        score = plain["score"]
        score["token_order"] = "log_probs"  # votes are of several teachers
        if score["rankers"] is not None:
            score["reward"] = score["calibration"] = None
        else:
            score["combine"] = None
            score["reward"] = "calibrated" if score["calibration"] is not None else score["reward"]
        data.update(dataset=None, name=None, split=None, heldout_split=None, streaming=False, chat_template_kwargs={})
        responses = plain["responses"]
        responses.update(source="teacher", mixture=None, candidates=responses["candidates"] and responses["n"] + 1)
        if responses["when"] == "in_training":
            responses.update(temperature=1.0, top_p=0.95)  # what training samples at
    else:
        student.update(model="cnn", training=None)
        teacher["weights"] = data["dataset"] = data["image_folder"] = data["folder"] = data["teacher_labels"] = None
        data["labels"], data["image"], data["image_root"] = "clean", None, None
        if plain["search"] is not None:
            plain["search"]["steps_share"] = 1.0
    for training in (plain["training"], teacher.get("training")):
        if training and plain["task"] == "classifier":
            training.update(tokens_per_batch=None, compile="auto", minutes=None, float32_masters=False)
        if training and training["minutes"]:
            training["steps"] = None
        if training and (training["steps"] or training["minutes"]):
            training["epochs"] = None
    for section in [*plain.values(), plain, *[inner for outer in plain.values() for inner in _inner(outer)]]:
        if isinstance(section, dict):
            for key in [key for key, value in section.items() if value is None]:
                del section[key]
    return plain


def _inner(section: Any) -> list[Any]:
    return [section.get("training"), section.get("lora")] if isinstance(section, dict) else []


def read(text: str) -> recipe.Recipe:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(text, encoding="utf-8", newline="")
        return recipe.read(path)


def refusal(text: str) -> str | None:
    try:
        read(text)
    except UserError as error:
        return str(error)
    return None


@settings(deadline=None, max_examples=25)
@given(st.one_of(sections(LanguageRecipe), sections(ClassifierRecipe)).map(consistent))
def test_every_value_arrives_and_comes_back(plain: dict[str, Any]) -> None:
    found = read(_yaml.dump(plain))
    assert recipe.to_plain(found) == plain
    assert read(recipe.dump(found)) == found


@settings(deadline=None, max_examples=200)
@given(FREE | st.sampled_from(AWKWARD))
def test_the_yaml_written_is_the_value_read(value: Any) -> None:
    back, _ = _yaml.parse(_yaml.dump([value]), str)
    assert back == [value]
    assert repr(back) == repr([value])  # 1 == 1.0 == True


def full(section: Any) -> dict[str, Any]:
    """A section with every key given."""
    given = {"r": 4, "task": get_args(get_type_hints(section).get("task", Any))[:1]}
    hints = get_type_hints(section)
    plain = {}
    for field in fields(section):
        inner = next((part for part in (hints[field.name], *get_args(hints[field.name])) if is_dataclass(part)), None)
        default = None if field.default is MISSING else field.default
        plain[field.name] = full(inner) if inner and inner is not Method else given.get(field.name, default)
    return plain


def every_key(section: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], list[str]]]:
    """Every key of a section with its known neighbours, the keys of inner sections too."""
    names = [field.name for field in fields(section)]
    found = [((*path, name), names) for name in names]
    for name, hint in get_type_hints(section).items():
        inner = next((part for part in (hint, *get_args(hint)) if is_dataclass(part)), None)
        if inner and inner is not Method:
            found += every_key(inner, (*path, name))
    return found


OPTIONS = [field.name for field in fields(objectives.method("dkd"))]
KEYS = [
    (section, path, known)
    for section in (LanguageRecipe, ClassifierRecipe)
    for path, known in [
        *every_key(section),
        *((("methods", 0, key), ["name", "label", *OPTIONS]) for key in ("name", "label", *OPTIONS)),
    ]
]


@st.composite
def typos(draw: st.DrawFn, word: str) -> str:
    letters = st.sampled_from(string.ascii_lowercase + "_")
    at = draw(st.integers(0, len(word) - 1))
    if len(word) == 1:  # of a single letter nothing is left after any other typo
        return word + draw(letters)
    return draw(
        st.sampled_from(
            [
                word[:at] + word[at + 1 :],
                word[:at] + draw(letters) + word[at:],
                word[:at] + draw(letters) + word[at + 1 :],
                word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
            ]
        )
    )


@settings(deadline=None, max_examples=70)
@given(st.data())
def test_a_typo_in_any_key_is_refused_and_the_key_suggested(data: st.DataObject) -> None:
    section, path, known = data.draw(st.sampled_from(KEYS))
    key = path[-1]
    typo = data.draw(typos(key))
    assume(typo not in known)
    plain = copy.deepcopy(full(section))
    plain["task"] = {LanguageRecipe: "language_model", ClassifierRecipe: "classifier"}[section]
    if path[0] == "methods":  # whose options are looked at when the rest of the recipe is right
        plain, _ = _yaml.parse(SMALL, str)
    plain["methods"] = [{"name": "dkd", "label": "x", **{f.name: f.default for f in fields(objectives.method("dkd"))}}]
    inside: Any = plain
    for step in path[:-1]:
        inside = inside[step]
    renamed = {typo if name == key else name: value for name, value in inside.items()}
    inside.clear()
    inside.update(renamed)
    message = refusal(_yaml.dump(plain))
    assert message is not None
    where = ".".join(map(str, (*path[:-1], typo)))
    assert f": {where}: unknown key; did you mean {key!r}?" in message
    assert "\n" not in message


@settings(deadline=None, max_examples=150)
@given(st.integers(0, len(SMALL)), st.integers(0, 6), st.text(" \n\t:-[]{}&*!|>'\"%@`#,?a1.~<=\x00é", max_size=6))
@example(0, len(SMALL), "? [a]\n: b")
@example(0, len(SMALL), "!!omap [a: 1]")
@example(0, len(SMALL), "task: classifier\nmethods: {a: b}\nteacher: [1]\nstudent: null\ndata: x\noutput: {}")
def test_a_damaged_recipe_is_read_or_refused_in_one_line(at: int, cut: int, put: str) -> None:
    assert "\n" not in (refusal(SMALL[:at] + put + SMALL[at + cut :]) or "")
