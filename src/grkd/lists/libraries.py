"""Libraries of the extra `rank`, imported when a run needs them; a missing one is one line."""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from grkd.errors import UserError

if TYPE_CHECKING:  # what `library` imports by name
    import bm25s  # noqa: F401
    import sentence_transformers  # noqa: F401


def library(name: str) -> Any:
    """A module of the extra `rank`. Raises UserError if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != package:
            raise
        raise UserError(f"task: rank needs {package.replace('_', '-')}; pip install 'grkd[rank]'") from None
