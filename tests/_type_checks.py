"""Types and shapes are checked at the first calls of every function in every test.

jaxtyping's hook checks every call (pyproject.toml), which was 38 % of the time of training, objectives and their tests:
a training makes the same calls at every step. Imported by conftest.py before grkd is.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jaxtyping
from jaxtyping import _decorator

CALLS = 3
_original = _decorator.jaxtyped
_test = 0


def next_test() -> None:
    """Every function is checked again."""
    global _test
    _test += 1


def _first_calls(checked: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    left, test = CALLS, -1

    @wraps(plain)
    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal left, test
        if test != _test:
            left, test = CALLS, _test
        if left == 0:
            return plain(*args, **kwargs)
        left -= 1
        return checked(*args, **kwargs)

    called.__dict__["_first_calls"] = True
    return called


def _jaxtyped(fn: Any = _decorator._sentinel, *, typechecker: Any = _decorator._sentinel) -> Any:
    """As jaxtyping's own; classes and descriptors come back here with their functions."""
    if fn is _decorator._sentinel:
        return lambda found: _jaxtyped(found, typechecker=typechecker)
    made = _original(fn, typechecker=typechecker)
    is_function = not isinstance(fn, type | classmethod | staticmethod | property)
    return _first_calls(made, fn) if is_function and not hasattr(fn, "_first_calls") else made


jaxtyping.jaxtyped = _decorator.jaxtyped = _jaxtyped
