"""Checks of options that methods share; each raises a UserError that names the method and the option."""

from typing import Any, get_args

from grkd.errors import UserError
from grkd.objectives._options import mistakes, options_of


def well_typed(owner: str, options: Any) -> None:
    """Raises UserError if an option has a value of another type, such as the text "2" for a number."""
    known = options_of(type(options))
    for mistake in mistakes(known, {name: getattr(options, name) for name in known}):
        raise UserError(f"{owner}: {mistake.sentence()}")


def above_zero(method: str, options: Any, *names: str) -> None:
    """Raises UserError if one of the options is not above 0."""
    for name in names:
        if not getattr(options, name) > 0:
            raise UserError(f"{method}: {name} must be above 0, got {getattr(options, name)}")


def not_negative(method: str, options: Any, *names: str) -> None:
    """Raises UserError if one of the options is below 0."""
    for name in names:
        if not getattr(options, name) >= 0:
            raise UserError(f"{method}: {name} must be 0 or more, got {getattr(options, name)}")


def some_weight(method: str, options: Any, *names: str) -> None:
    """Raises UserError if one of these weights is below 0, or if all are 0."""
    not_negative(method, options, *names)
    if not any(getattr(options, name) for name in names):
        raise UserError(f"{method}: {', '.join(names)} are all 0; set one above 0")


def known(method: str, options: Any, *names: str) -> None:
    """Raises UserError if an option is none of the words of its type."""
    for name in names:
        values = get_args(options_of(type(options))[name].hint)
        if getattr(options, name) not in values:
            raise UserError(f"{method}: unknown {name} {getattr(options, name)!r}; known: {', '.join(values)}")
