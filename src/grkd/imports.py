"""Anything by import path: "package.module:Name", as recipes name methods, parts, networks and rankers of one's own.

And whether a tracker's packages are installed.
"""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from grkd.errors import UserError

# Packages that a tracker of transformers needs, where they are not named as it is; any of each group.
_TRACKERS = {
    "azure_ml": [["azureml"]],
    "dagshub": [["dagshub"], ["mlflow"]],
    "flyte": [["flytekit"]],
    "kubeflow": [],
    "tensorboard": [["tensorboard", "tensorboardX"]],
}


def tracker_is_installed(name: str) -> bool:
    """Whether the packages that a tracker of transformers' report_to needs are there; imports none of them."""
    return all(any(map(find_spec, packages)) for packages in _TRACKERS.get(name, [[name]]))


def is_import_path(name: str) -> bool:
    """Whether the name is "package.module:Name" and no built-in name, hub name or folder."""
    return ":" in name and "/" not in name


def imported(path: str) -> Any:
    """What an import path names; modules are looked for in the working directory too.

    Raises UserError for a path of another form, a module that is missing or fails, a name that is missing, a name that
    starts with an underscore, and anything from the standard library: a recipe must not be able to call os.system.
    """
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise UserError(f"{path!r}: an import path is 'package.module:Name'")
    if module_name.split(".")[0] in sys.stdlib_module_names:
        raise UserError(f"{path}: {module_name} is in Python's standard library; name a function or class of your own")
    module = _module(path, module_name)
    if attribute.startswith("_") or not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_") and callable(getattr(module, name))]
        raise UserError(f"{path}: {module_name} has no {attribute!r}; it has: {_listed(public)}")
    found = getattr(module, attribute)
    home = getattr(found, "__module__", None)
    if isinstance(found, ModuleType) or (callable(found) and str(home).split(".")[0] in sys.stdlib_module_names):
        raise UserError(f"{path}: {attribute} is from Python's standard library; name a function or class of your own")
    return found


def imported_callable(path: str) -> Any:
    """The function or class that an import path names. Raises UserError as `imported`, and for anything else."""
    found = imported(path)
    if not callable(found):
        raise UserError(f"{path}: it is a {type(found).__name__}, it must be callable")
    return found


def imported_class(path: str, base: type) -> Any:
    """The subclass of `base` that an import path names. Raises UserError as `imported`, and for anything else."""
    found = imported(path)
    if not (isinstance(found, type) and issubclass(found, base)):
        shown = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise UserError(f"{path}: it is {shown}, it must be a subclass of {base.__module__}.{base.__name__}")
    return found


def source_of(called: Any) -> Path | None:
    """The file that a function, what a partial calls, or an object's class is written in; None: it is in none."""
    if isinstance(called, partial):
        return source_of(called.func)
    written = called if inspect.isroutine(called) or inspect.isclass(called) else type(called)
    try:
        file = inspect.getsourcefile(inspect.unwrap(written))
    except TypeError:  # it is no Python
        return None
    return None if file is None else Path(file)


@contextlib.contextmanager
def working_directory_importable() -> Iterator[None]:
    """Modules of the working directory can be imported inside."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


def _module(path: str, name: str) -> ModuleType:
    try:
        with working_directory_importable():
            return importlib.import_module(name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            text = f"there is no module {missing!r}, neither installed nor in {Path.cwd()}"
            raise UserError(f"{path}: {text}") from None
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{path}: importing {name} failed: {text}") from error


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "nothing callable"
