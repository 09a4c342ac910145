"""The trials of a method's search, kept by Optuna in the run folder: a killed search repeats none."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grkd.compare import search
from grkd.compare.search import Settings, Space
from grkd.compare.student_job import space
from grkd.errors import UserError
from grkd.files import digest
from grkd.metrics.registry import higher_is_better
from grkd.recipe import Method, Recipe


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial. value: None if it failed or was stopped. half: its value when the pruner looked at it.

    stopped_after: the epoch at which the pruner stopped it. failure: the reason why it has no value.
    details: what the task measured beside (metrics, steps, seconds).
    """

    number: int
    settings: Settings
    value: float | None = None
    half: float | None = None
    stopped_after: int | None = None
    failure: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """ "done", "stopped after epoch N" or "failed: reason"."""
        if self.failure is not None:
            return f"failed: {self.failure}"
        return "done" if self.stopped_after is None else f"stopped after epoch {self.stopped_after}"


class Study:
    """The search of one method: at most `trials` trials of the points of `space`, the same number for every method.

    key: digest of all that a trial's value depends on beside its settings; trials of another key are not read. After a
    change of `space` the trials whose settings are in it still count.
    A trial that a killed command left running is handed out again, and so is, once per command, one that failed.
    Raises UserError if Optuna is missing, or its journal is damaged.
    """

    def __init__(
        self, journal: Path, *, label: str, key: str, space: Space, trials: int, seed: int, maximise: bool
    ) -> None:
        self.label, self.space, self.trials, self.seed, self.maximise = label, space, trials, seed, maximise
        self._optuna = search.load_optuna()
        self._states = self._optuna.trial.TrialState
        self._axes = {name: search.axis(self._optuna, values) for name, values in space.items()}
        prefix = f"{label}/{key}/"
        self.name = prefix + digest(space)[:16]
        storage = _storage(self._optuna, journal)
        others = [name for name in self._optuna.get_all_study_names(storage) if name.startswith(prefix)]
        self._study = self._optuna.create_study(
            storage=storage,
            study_name=self.name,
            direction="maximize" if maximise else "minimize",
            pruner=self._optuna.pruners.MedianPruner(n_startup_trials=self.first),
            load_if_exists=True,
        )
        if self.name not in others:
            for name in others:
                self._take_over(self._optuna.load_study(storage=storage, study_name=name))
        self._out: set[int] = set()
        self._again = {number for number, one in self._latest().items() if one.state == self._states.FAIL}

    @property
    def first(self) -> int:
        """Number of trials that are spread over the grid before TPE chooses, and before the pruner stops any."""
        return (self.trials + 1) // 2

    def ended(self) -> list[Trial]:
        """The trials that have ended, in their order; no more than the search has now."""
        found = [
            _trial(one)
            for number, one in sorted(self._latest().items())
            if one.state.is_finished() and number not in self._again
        ]
        return found[: self.trials]

    def next(self) -> list[Trial]:
        """The trials to run now; none while some are under way, or if the search is over.

        Half of all trials at first, then a quarter at a time; a whole grid at once if it is small.
        """
        latest = self._latest()
        if any(latest[number].state == self._states.RUNNING for number in self._out):
            return []  # under way in this command
        numbers = [number for number, one in latest.items() if one.state == self._states.RUNNING]  # left by a kill
        for number in sorted(self._again):
            self._begin(number, latest[number].user_attrs["settings"])
            numbers.append(number)
        self._again = set()
        numbers = numbers or self._begin_new()
        self._out = set(numbers)
        latest = self._latest()
        return [_trial(latest[number]) for number in sorted(numbers)]

    def _begin_new(self) -> list[int]:
        """Begin the trials that the search proposes next; their numbers."""
        latest, begun = self._latest(), []
        free = (number for number in range(self.trials + len(latest)) if number not in latest)
        ended = [(trial.settings, trial.value) for trial in self.ended()]
        for settings, number in zip(self._proposed(ended), free, strict=False):
            self._begin(number, settings)
            begun.append(number)
        return begun

    def tell(
        self,
        number: int,
        *,
        value: float | None = None,
        stopped_after: int | None = None,
        failure: str | None = None,
        lasting: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """How a trial ended. lasting: its failure would come again, so another command does not repeat it."""
        one, states = self._latest()[number], self._states
        found = {"failure": failure, "stopped_after": stopped_after, "details": dict(details or {})}
        self._optuna.trial.Trial(self._study, one._trial_id).set_user_attr("found", found)
        if failure is not None and not lasting:
            self._study.tell(one.number, state=states.FAIL)
        elif value is None or failure is not None or stopped_after is not None:
            self._study.tell(one.number, state=states.PRUNED)
        else:
            self._study.tell(one.number, value)

    def should_stop(self, number: int, *, epoch: int, value: float) -> bool:
        """Report a trial's value while it runs; whether Optuna's median pruner stops it.

        The pruner stops nothing before half of the trials have ended, and NaN always after that.
        """
        trial = self._optuna.trial.Trial(self._study, self._latest()[number]._trial_id)
        trial.report(value, epoch)
        return bool(trial.should_prune())

    def is_running(self, number: int) -> bool:
        """Whether a trial was begun and has not ended."""
        return bool(self._latest()[number].state == self._states.RUNNING)

    @property
    def is_over(self) -> bool:
        """Whether every trial has ended, and none that failed is still to be run again."""
        done = [(trial.settings, trial.value) for trial in self.ended()]
        running = any(one.state == self._states.RUNNING for one in self._latest().values())
        return not running and not self._again and not self._proposed(done)

    def best(self) -> Trial | None:
        """The best trial (the first of equals); None before the end of the search, or if none has a value."""
        valued = [trial for trial in self.ended() if trial.value is not None]
        if not valued or not self.is_over:
            return None
        return (max if self.maximise else min)(valued, key=lambda trial: trial.value or 0.0)

    def why_none(self) -> str | None:
        """The first failure, if every trial so far has failed; None else, and before any has ended."""
        ended = [_trial(one) for _, one in sorted(self._latest().items()) if one.state.is_finished()]
        failures = [trial.failure for trial in ended if trial.failure is not None]
        return failures[0] if failures and len(failures) == len(ended) else None

    def records(self, *, metric: str) -> list[dict[str, Any]]:
        """The ended trials as search.json has them.

        grid: number of points that the method's ranges span. at_edge: settings at the end of their range.
        """
        return [
            {
                "method": self.label,
                "number": trial.number,
                "settings": trial.settings,
                "metric": metric,
                "value": trial.value,
                "outcome": trial.outcome,
                "grid": len(search.grid(self.space)),
                "at_edge": search.at_edge(self.space, trial.settings),
                "half": trial.half,
                "stopped_after": trial.stopped_after,
                "failure": trial.failure,
                **trial.details,
            }
            for trial in self.ended()
        ]

    def _proposed(self, done: list[tuple[Settings, float | None]]) -> list[Settings]:
        small = len(search.grid(self.space)) <= self.trials
        early = self.first - len(done)
        return search.propose(
            self.space,
            done,
            trials=self.trials,
            count=self.trials if small else early if early > 0 else max(1, self.trials // 4),
            seed=self.seed,
            maximise=self.maximise,
        )

    def _begin(self, number: int, settings: Settings) -> None:
        self._add(self._states.RUNNING, {"number": number, "settings": settings})

    def _add(self, state: Any, attributes: dict[str, Any], **found: Any) -> None:
        settings = attributes["settings"]
        params = {name: values.index(settings[name]) for name, values in self.space.items()}
        self._study.add_trial(
            self._optuna.trial.create_trial(
                state=state, params=params, distributions=self._axes, user_attrs=attributes, **found
            )
        )

    def _take_over(self, other: Any) -> None:
        """Trials of the same key under other ranges, as far as their settings are in these."""
        points = search.grid(self.space)
        for one in other.get_trials(deepcopy=False):
            taken = self._latest()
            known = [trial.user_attrs["settings"] for trial in taken.values()]
            settings = one.user_attrs["settings"]
            if one.state not in (self._states.COMPLETE, self._states.PRUNED) or settings not in points:
                continue
            if settings not in known:
                number = next(number for number in range(len(taken) + 1) if number not in taken)
                attributes = {**one.user_attrs, "number": number}
                self._add(one.state, attributes, value=one.value, intermediate_values=one.intermediate_values)

    def _latest(self) -> dict[int, Any]:
        """number -> its Optuna trial; the last one, if a failed trial was run again."""
        return {one.user_attrs["number"]: one for one in self._study.get_trials(deepcopy=False)}


def study_of(run: Path, recipe: Recipe, method: Method, *, metric: str, key: str) -> Study:
    """A method's study in a run's folder; the same in every process. key: digest of all but a trial's settings."""
    assert recipe.search is not None
    return Study(
        run / "search" / "optuna.journal",  # Optuna's own tools (optuna-dashboard) open it
        label=method.label,
        key=key,
        space=space(recipe, method),
        trials=recipe.search.trials,
        seed=recipe.seeds[0],
        maximise=higher_is_better(metric),
    )


def _trial(one: Any) -> Trial:
    found = one.user_attrs.get("found", {})
    half = next(iter(one.intermediate_values.values()), None)
    has_value = one.state.name == "COMPLETE"
    return Trial(
        number=one.user_attrs["number"],
        settings=one.user_attrs["settings"],
        value=one.value if has_value else None,
        half=None if half is None or math.isnan(half) else half,
        stopped_after=found.get("stopped_after"),
        failure=found.get("failure"),
        details=found.get("details", {}),
    )


def _storage(optuna: Any, journal: Path) -> Any:
    journal.parent.mkdir(parents=True, exist_ok=True)
    try:
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        text = " ".join(str(error).split())[:100]
        raise UserError(f"{journal}: damaged ({type(error).__name__}: {text}); delete it to search again") from None
