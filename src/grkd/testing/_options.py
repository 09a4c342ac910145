"""Options of an objective and of its parts: every one has help and an effect."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from grkd.errors import UserError
from grkd.objectives import Objective
from grkd.objectives._options import options_of
from grkd.objectives.parts import Part
from grkd.testing._batches import a_batch, loss_and_gradient


def check_options(objective: Objective, bases: Mapping[str, Objective] | None = None) -> None:
    """Check that every option has help and an effect.

    Every value that is accepted for it must change the loss, its gradient, its levels or the sampling.

    Parameters
    ----------
    objective : Objective
        The method.
    bases : mapping of str to Objective, optional
        By option: the objective to vary it from. None: the objective itself.

    Raises
    ------
    AssertionError
        For the first option without help or effect.

    Examples
    --------
    >>> from grkd import objectives, testing
    >>> testing.check_options(objectives.load("kd"))
    """
    bases = bases or {}
    for path in option_paths(objective):
        base = bases.get(path, objective)
        before = _seen(base)
        changed, without_effect = 0, []
        for value, other in alternatives(base, path):
            changed += 1
            after = _seen(other)
            same = len(before) == len(after) and all(
                torch.allclose(found, was, rtol=1e-6, atol=0) for found, was in zip(after, before, strict=True)
            )
            sampling = [(one.on_policy, one.teacher_mixed_in, one.levels) for one in (base, other)]
            if same and sampling[0] == sampling[1]:
                without_effect.append(value)
        assert changed, f"{path}: no other value was accepted"
        assert not without_effect, f"{path} has no effect at {without_effect}"


def option_paths(objective: Objective) -> list[str]:
    """Every option of an objective, and of its parts by dotted path.

    Parameters
    ----------
    objective : Objective
        The method.

    Returns
    -------
    list of str
        Such as alpha_ceiling, ranking.pairs.tau.

    Examples
    --------
    >>> from grkd import objectives, testing
    >>> "ranking.pairs.tau" in testing.option_paths(objectives.load("grkd"))
    True
    """
    found = []
    for name, one in options_of(type(objective)).items():
        value = getattr(objective, name)
        if _is_parts(value):
            found += [f"{name}.{part.short_name()}.{inner}" for part in value for inner in options_of(type(part))]
        else:
            found.append(name)
        assert one.help, f"{name}: say what it is: {name}: ... = option({one.default!r}, 'one line of help')"
    return list(dict.fromkeys(found))


def alternatives(objective: Objective, path: str) -> Iterator[tuple[Any, Objective]]:
    """Other values for an option, and the objective with each; values that are refused are left out.

    Parameters
    ----------
    objective : Objective
        The method.
    path : str
        The option, see `option_paths`.

    Yields
    ------
    (Any, Objective)
        The value, and the objective that has it.

    Examples
    --------
    >>> from grkd import objectives, testing
    >>> all(made.temperature == value for value, made in testing.alternatives(objectives.load("kd"), "temperature"))
    True
    """
    name, _, inner = path.partition(".")
    if not inner:
        for value in _others(options_of(type(objective))[name], getattr(objective, name)):
            yield from _made(value, partial(replace, objective, **{name: value}))
        return
    short, option = inner.rsplit(".", 1)
    listed = list(getattr(objective, name))
    place = next(number for number, part in enumerate(listed) if part.short_name() == short)
    for value in _others(options_of(type(listed[place]))[option], getattr(listed[place], option)):
        yield from _made(value, partial(_with_part, objective, name, place, {option: value}))


def _with_part(objective: Objective, name: str, place: int, changed: Mapping[str, Any]) -> Objective:
    listed = list(getattr(objective, name))
    listed[place] = replace(listed[place], **changed)
    return replace(objective, **{name: tuple(listed)})


def _made(value: Any, make: Callable[[], Objective]) -> Iterator[tuple[Any, Objective]]:
    try:
        made = make()
    except UserError:
        return
    yield value, made


def _others(option: Any, value: Any) -> list[Any]:
    """Other values for an option, by its type."""
    if option.choices:
        return [other for other in option.choices if other != value]
    if option.hint is bool:
        return [not value]
    if option.hint is int:
        return [value - 1, value + 1, 2 * value]
    if option.hint is float:
        return [other for other in (0.0, 0.3, 0.5 * value, 2 * value, value + 1) if other != value]
    if get_origin(option.hint) is Literal:
        return [other for other in get_args(option.hint) if other != value]
    raise AssertionError(f"{option.name}: no other values are known for the type {option.hint}; give it choices=(...)")


def _seen(objective: Objective) -> list[Tensor]:
    """Loss and gradient at each of the objective's levels."""
    return [one for level in objective.levels for one in loss_and_gradient(objective, a_batch(level=level))]


def _is_parts(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(part, Part) for part in value)
