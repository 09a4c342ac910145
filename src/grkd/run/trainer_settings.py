"""What a recipe's training section may name of transformers, known without importing it: that takes seconds.

The names are read from the source of the installed version, so they are never those of another version.
"""

import ast
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from grkd.errors import UserError, nearest
from grkd.imports import tracker_is_installed
from grkd.recipe import Training

# Types that an annotation may be made of to be understood without transformers.
_PLAIN: dict[str, Any] = {
    **{kind.__name__: kind for kind in (bool, dict, float, int, list, str)},
    "Any": Any,
    "Literal": Literal,
}
_KEYWORDS = ("none", "all", "auto")
# Numbers that PyTorch's optimisers refuse when training begins, hours after the recipe was read.
_BELOW = {"adam_beta1": 1.0, "adam_beta2": 1.0, "adam_epsilon": math.inf}
# Optimisers that need a package, by a pattern of their names.
_OPTIMISERS = {
    r"adamw_torch_[48]bit": "torchao",
    r".*bnb.*|.*_8bit|paged_.*|lion_.*|ademamix.*": "bitsandbytes",
    r"galore_.*": "galore_torch",
    r".*lomo": "lomo_optim",
    r"grokadamw": "grokadamw",
    r"apollo_.*": "apollo_torch",
    r"schedule_free_.*": "schedulefree",
    r"stable_adamw": "optimi",
    r"adamw_apex_fused": "apex",
    r"adamw_anyprecision": "torchdistx",
    r".*_xla": "torch_xla",
    r".*_npu_.*": "torch_npu",
}


def check_names(training: Training) -> None:
    """Raises UserError for trackers, mistakes in `extra` and packages that are missing; imports none of them."""
    check_trackers(training)
    if training.extra and (fields := argument_types()):
        check_extra(training.extra, fields)
    for name, value in training.extra.items():
        if (below := _BELOW.get(name)) is not None and isinstance(value, int | float) and not 0 <= value < below:
            most = "" if below == math.inf else f" and below {below}"
            raise UserError(f"training.extra.{name}: expected a number of at least 0{most}, got {value}")
    optimiser = str(training.extra.get("optim", ""))
    needed = next((package for names, package in _OPTIMISERS.items() if re.fullmatch(names, optimiser)), None)
    if needed is not None and find_spec(needed) is None:
        raise UserError(f"training.extra.optim: {optimiser} needs the package {needed}, which is not installed")


def check_trackers(training: Training) -> None:
    """Raises UserError for a tracker in report_to that transformers does not know, or that is not installed."""
    for name in given_trackers(training):
        known = trackers()
        if known and name not in known:
            listed = ", ".join(sorted(known))
            raise UserError(f"training.report_to: unknown tracker {name[:60]!r}; known: none, {listed}")
        if not tracker_is_installed(name):
            raise UserError(f"training.report_to: {name} is not installed; pip install it, or set none")


def given_trackers(training: Training) -> list[str]:
    """The trackers that report_to names one by one."""
    names = [training.report_to] if isinstance(training.report_to, str) else training.report_to
    return [name for name in names if name not in _KEYWORDS]


def check_extra(extra: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Raises UserError for a field that transformers.TrainingArguments has not, or a value of another type.

    fields: the type of every field; None if it is not known.
    """
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    for name, value in extra.items():
        if name not in fields:
            near = nearest(name, fields)
            hint = f"; did you mean {near!r}?" if near else ""
            raise UserError(f"training.extra.{name[:60]}: transformers.TrainingArguments has no such field{hint}")
        if (kind := fields[name]) is None:
            continue
        try:
            TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value, strict=True)
        except ValidationError:
            wanted = str(getattr(kind, "__name__", kind)).replace("typing.", "")
            if choices := get_args(kind) if get_origin(kind) is Literal else ():
                near = nearest(str(value), choices)
                wanted = f"one of {', '.join(choices[:6])}, ..." if not near else f"one of {len(choices)} names"
                tail = f"; did you mean {near!r}?" if near else ""
                raise UserError(f"training.extra.{name}: expected {wanted}, got {repr(value)[:60]}{tail}") from None
            raise UserError(f"training.extra.{name}: expected {wanted}, got {repr(value)[:60]}") from None
        except PydanticUserError:
            continue  # a type that pydantic cannot check


@lru_cache(maxsize=1)
def trackers() -> frozenset[str]:
    """Names that transformers' report_to takes; empty where its source does not show them."""
    for node in _source("integrations/integration_utils.py"):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INTEGRATION_TO_CALLBACK":
            assert isinstance(node.value, ast.Dict)
            return frozenset(str(ast.literal_eval(key)) for key in node.value.keys if key is not None)
    return frozenset()


@lru_cache(maxsize=1)
def argument_types() -> dict[str, Any]:
    """Fields of transformers.TrainingArguments and their types (None: not a plain one); empty where not shown."""
    for node in _source("training_args.py"):
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments" and not node.bases:
            lines = [
                line for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            ]
            return {ast.unparse(line.target): _type(line.annotation) for line in lines}
    return {}


def _type(annotation: ast.expr) -> Any:
    """A plain type, or the names of an enumeration of the same file that is written `E | str`; else None."""
    words = ast.unparse(annotation)
    for node in _source("training_args.py"):
        if isinstance(node, ast.ClassDef) and words in (node.name, f"{node.name} | str", f"Union[{node.name}, str]"):
            values = [line.value for line in node.body if isinstance(line, ast.Assign)]
            names = tuple(value.value for value in values if isinstance(value, ast.Constant))
            return Literal[names] if names else None
    return _plain_type(annotation)


@lru_cache(maxsize=2)
def _source(name: str) -> list[ast.stmt]:
    """The statements of one of transformers' files."""
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return []
    try:
        return ast.parse((Path(spec.origin).parent / name).read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, UnicodeDecodeError):
        return []


def _plain_type(annotation: ast.expr) -> Any:
    names = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    allowed = (ast.Name, ast.Constant, ast.BinOp, ast.BitOr, ast.Subscript, ast.Tuple, ast.Load)
    if not names <= _PLAIN.keys() or not all(isinstance(node, allowed) for node in ast.walk(annotation)):
        return None
    return eval(ast.unparse(annotation), {"__builtins__": {}}, _PLAIN)  # of the plain types above alone
