"""Objects by import path: package.module:name."""

import importlib
import sys
from pathlib import Path
from typing import Any

from grkd.errors import UserError


def imported(path: str) -> Any:
    """The object that package.module:name names; the working directory counts as importable.

    Raises UserError for a path of another form, a module that is missing or fails, and a name that it does not have.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name.isidentifier():
        raise UserError(f"{path!r}: an import path looks like package.module:name")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: no module {error.name!r}, neither installed nor in {here}") from None
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{path}: importing {module_name} failed ({text})") from error
    if not hasattr(module, name):
        raise UserError(f"{path}: {module_name} has no {name!r}")
    return getattr(module, name)
