"""Which settings the next trial takes: the same number of trials for every method, over lists of values.

Pure functions on plain records: `grkd.compare.study` keeps the records.
"""

import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grkd.errors import UserError

Settings = dict[str, Any]
Space = dict[str, list[Any]]


def grid(space: Space) -> list[Settings]:
    """All settings of a space, the last axis changing fastest."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def propose(
    space: Space, done: Sequence[tuple[Settings, float | None]], *, trials: int, count: int, seed: int, maximise: bool
) -> list[Settings]:
    """The next settings to try, at most `count`, none of which was tried before.

    done: settings of earlier trials with their values (None: failed, or stopped early).
    trials: number of trials of the whole search. A grid of at most that many points is taken in order. Otherwise the
    first half is spread evenly over every axis (each value as often as any other), and the rest comes from Optuna's
    TPE on all values known by then.
    Repeatable: the same arguments give the same settings.
    Raises UserError for an axis without values.
    """
    for name, values in space.items():
        if not values:
            raise UserError(f"search: {name} has no values to try")
    tried = [settings for settings, _ in done]
    points = [settings for settings in grid(space) if settings not in tried]
    count = min(count, trials - len(done), len(points))
    if count <= 0:
        return []
    if len(points) + len(done) <= trials:
        return points[:count]
    spread = [settings for settings in _spread(space, (trials + 1) // 2, seed) if settings not in tried]
    early = (trials + 1) // 2 - len(done)
    chosen = spread[: max(0, min(count, early))]
    if len(chosen) < count:
        chosen += _by_tpe(space, done, chosen, count - len(chosen), seed, maximise)
    return chosen


def share_of_grid(space: Space, trials: int) -> float:
    """Share of a method's grid that its trials cover, in (0, 1]: equal numbers of trials are unequal shares."""
    return min(1.0, trials / len(grid(space)))


def at_edge(space: Space, settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings that stand at the lowest or highest value of their range: a better one may lie beyond.

    Only ranges of three or more different numbers have an inside, so only these are looked at.
    """
    found = []
    for name, values in space.items():
        numbers = {value for value in values if _is_number(value)}
        if len(numbers) == len(values) >= 3 and settings.get(name) in (min(numbers), max(numbers)):
            found.append(name)
    return found


def _spread(space: Space, count: int, seed: int) -> list[Settings]:
    """`count` different points (fewer only by chance): on every axis each value as often as any other.

    A Latin hypercube, drawn again if a point comes twice.
    """
    random = np.random.default_rng(seed)
    best: list[Settings] = []
    for _ in range(100):
        columns = []
        for values in space.values():
            rounds = -(-count // len(values))
            columns.append(np.concatenate([random.permutation(len(values)) for _ in range(rounds)])[:count])
        found: list[Settings] = []
        for row in np.stack([random.permutation(column) for column in columns], axis=-1):
            settings = {name: values[index] for (name, values), index in zip(space.items(), row, strict=True)}
            if settings not in found:
                found.append(settings)
        best = max(best, found, key=len)
        if len(best) == count:
            break
    return best


def _by_tpe(
    space: Space,
    done: Sequence[tuple[Settings, float | None]],
    pending: Sequence[Settings],
    count: int,
    seed: int,
    maximise: bool,
) -> list[Settings]:
    optuna = load_optuna()
    axes = {name: axis(optuna, values) for name, values in space.items() if len(values) > 1}
    sampler = optuna.samplers.TPESampler(seed=seed + len(done), n_startup_trials=1)
    study = optuna.create_study(direction="maximize" if maximise else "minimize", sampler=sampler)
    worst = min if maximise else max
    known = [value for _, value in done if value is not None]
    for settings, value in done:
        # A trial without a value counts as the worst value: neither it nor its neighbours should be tried again.
        value = value if value is not None else worst(known, default=0.0)
        params = {name: space[name].index(settings[name]) for name in axes}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=axes, value=value))
    taken = [settings for settings, _ in done] + list(pending)
    chosen: list[Settings] = []
    for _ in range(20 * count):
        asked = study.ask(axes)
        settings = {name: values[asked.params.get(name, 0)] for name, values in space.items()}
        if settings not in taken:
            taken.append(settings)
            chosen.append(settings)
        if len(chosen) == count:
            return chosen
    left = [settings for settings in grid(space) if settings not in taken]
    order = np.random.default_rng(seed).permutation(len(left))
    return chosen + [left[index] for index in order[: count - len(chosen)]]


def axis(optuna: Any, values: list[Any]) -> Any:
    """Optuna's distribution over the positions in a list: ordered if it holds numbers, else without an order."""
    if all(_is_number(value) for value in values):
        return optuna.distributions.IntDistribution(0, len(values) - 1)
    return optuna.distributions.CategoricalDistribution(list(range(len(values))))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def load_optuna() -> Any:
    """The module, quiet. Raises UserError if it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError:
        raise UserError("search: needs Optuna; pip install 'grkd[search]', or remove the search") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
