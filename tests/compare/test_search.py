"""The next settings to try: equal numbers for all, nothing twice, repeatable; and what is stopped half-way."""

import pytest

from grkd.compare.search import at_edge, grid, propose, share_of_grid
from grkd.errors import UserError

SPACE = {"learning_rate": [0.01, 0.03, 0.1, 0.3], "temperature": [1.0, 2.0, 4.0], "t_squared": [True, False]}


def quality(settings: dict[str, object]) -> float:
    """Best at learning_rate .1, temperature 4, t_squared."""
    rate = SPACE["learning_rate"].index(settings["learning_rate"])
    return (
        1
        - abs(rate - 2) * 0.2
        + 0.1 * SPACE["temperature"].index(settings["temperature"])
        - (0 if settings["t_squared"] else 0.3)
    )


def search(trials: int, seed: int, batch: int = 2) -> list[tuple[dict[str, object], float | None]]:
    done: list[tuple[dict[str, object], float | None]] = []
    while asked := propose(SPACE, done, trials=trials, count=batch, seed=seed, maximise=True):
        done += [(settings, quality(settings)) for settings in asked]
    return done


def test_a_small_grid_is_tried_whole_and_in_order() -> None:
    space = {"learning_rate": [1.0, 2.0], "tau": [0.5, 1.0]}
    first = propose(space, [], trials=6, count=3, seed=0, maximise=True)
    assert first == grid(space)[:3]
    rest = propose(space, [(settings, None) for settings in first], trials=6, count=6, seed=0, maximise=True)
    assert first + rest == [
        {"learning_rate": 1.0, "tau": 0.5}, {"learning_rate": 1.0, "tau": 1.0},
        {"learning_rate": 2.0, "tau": 0.5}, {"learning_rate": 2.0, "tau": 1.0},
    ]  # fmt: skip
    assert (
        propose(space, [(settings, 1.0) for settings in first + rest], trials=6, count=6, seed=0, maximise=True) == []
    )


def test_a_large_grid_gets_exactly_its_trials_none_twice_the_same_every_time() -> None:
    done = search(10, seed=3)
    tried = [settings for settings, _ in done]
    assert len(tried) == 10
    assert all(settings in grid(SPACE) for settings in tried)
    assert all(settings not in tried[:place] for place, settings in enumerate(tried))
    assert search(10, seed=3) == done
    assert search(10, seed=4) != done


def test_the_first_half_shows_every_value_equally_often() -> None:
    first = propose(SPACE, [], trials=24 - 1, count=12, seed=0, maximise=True)
    for name, values in SPACE.items():
        counts = [sum(settings[name] == value for settings in first) for value in values]
        assert counts == [12 // len(values)] * len(values), name


def test_what_is_known_pulls_the_second_half_to_the_better_values() -> None:
    """Over many seeds the later trials are better than the earlier ones, in the direction asked for."""
    early, late = [], []
    for seed in range(8):
        values = [value for _, value in search(12, seed=seed, batch=1)]
        early += values[:6]
        late += values[6:]
    assert sum(late) / len(late) > sum(early) / len(early) + 0.05


def test_failed_trials_count_and_are_not_repeated() -> None:
    done = [(settings, None) for settings in propose(SPACE, [], trials=8, count=4, seed=0, maximise=False)]
    more = propose(SPACE, done, trials=8, count=8, seed=0, maximise=False)
    assert len(more) == 4
    assert all(settings not in [tried for tried, _ in done] for settings in more)


def test_settings_that_are_lists_and_single_values_work() -> None:
    space = {"hidden": [[1], [2, 3], None], "learning_rate": [0.1], "tau": [1.0, 2.0, 3.0]}
    done: list = []
    while asked := propose(space, done, trials=6, count=1, seed=0, maximise=True):
        done += [(settings, 1.0) for settings in asked]
    assert len(done) == 6


def test_an_axis_without_values_is_a_mistake() -> None:
    with pytest.raises(UserError, match="tau has no values"):
        propose({"tau": []}, [], trials=3, count=1, seed=0, maximise=True)


def test_an_equal_number_of_trials_is_an_unequal_share_of_the_grids() -> None:
    assert share_of_grid(SPACE, 12) == 0.5
    assert share_of_grid({"learning_rate": [0.1, 0.2]}, 12) == 1.0


def test_a_pick_at_the_end_of_a_range_is_named() -> None:
    inside = {"learning_rate": 0.03, "temperature": 2.0, "t_squared": True}
    assert at_edge(SPACE, inside) == []
    assert at_edge(SPACE, {**inside, "learning_rate": 0.3, "temperature": 1.0}) == ["learning_rate", "temperature"]
    # Two values have no inside, and other things than numbers have no order.
    assert at_edge({"tau": [1.0, 2.0], "group": ["all", "top", "sample"]}, {"tau": 1.0, "group": "all"}) == []
    # The order in which a recipe lists the values does not matter.
    assert at_edge({"tau": [2.0, 1.0, 4.0]}, {"tau": 2.0}) == []
