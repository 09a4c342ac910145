"""Which settings to try next: the same number of tries for every method, over lists of values.

Pure functions on plain records, so that a search can stop and go on, and several tries can run at once.
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
    """The next settings to try, `count` of them at most, none of which was tried before.

    done: what was tried, with its value (None: it failed, or was stopped early). trials: of the whole search; where the
    grid has no more points than that, they are taken in order. Otherwise the first half are spread evenly over every
    axis (each value as often as any other), the rest come from Optuna's TPE on all that is known by then.
    Repeatable: the same arguments give the same settings.
    Raises UserError where an axis has no values, or Optuna is needed and absent.
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


def below_median(values: Mapping[str, float], *, maximise: bool, least: int = 3) -> set[str]:
    """The names whose value is worse than the median of all; none of fewer than `least`. NaN is worse than anything.

    Source: the median rule of Golovin et al., "Google Vizier" (KDD 2017), as in Optuna's MedianPruner.
    """
    if len(values) < least:
        return set()
    sign = 1.0 if maximise else -1.0
    goodness = {name: -np.inf if np.isnan(value) else sign * value for name, value in values.items()}
    median = float(np.median(list(goodness.values())))
    return {name for name, value in goodness.items() if value < median}


def _spread(space: Space, count: int, seed: int) -> list[Settings]:
    """`count` different points (fewer only where chance will have it): on every axis each value as often as any other.

    A Latin hypercube, drawn again where a point comes twice.
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
    optuna = _optuna()
    axes = {name: _axis(optuna, values) for name, values in space.items() if len(values) > 1}
    sampler = optuna.samplers.TPESampler(seed=seed + len(done), n_startup_trials=1)
    study = optuna.create_study(direction="maximize" if maximise else "minimize", sampler=sampler)
    worst = min if maximise else max
    known = [value for _, value in done if value is not None]
    for settings, value in done:
        # A try without a value is as bad as the worst that has one: it must not be tried again or near.
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


def _axis(optuna: Any, values: list[Any]) -> Any:
    """Positions in the list: in order where it holds numbers, else without any."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return optuna.distributions.IntDistribution(0, len(values) - 1)
    return optuna.distributions.CategoricalDistribution(list(range(len(values))))


def _optuna() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import optuna
    except ImportError:
        raise UserError("search: more settings than trials need Optuna; pip install 'grkd[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
