"""The score stage's work on a chunk of groups: every teacher's word, and the rankers' order."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grkd.language.context import LanguageContext
from grkd.language.record_columns import RecordColumns
from grkd.language.teacher_scorer import Record, TeacherScorer
from grkd.rankers import Panel, Ranked, Resources, panel
from grkd.rankers.several import column_of
from grkd.recipe import Score, ServedModel, Teacher, rankers_of, shows_tokens

Means = Sequence[float | None]


def panel_of(settings: Score, teacher: Teacher | None = None) -> Panel:
    """The recipe's rankers: score.rankers, or the one that score.reward names, or the teacher's own word.

    teacher: a judge without a URL is this one, and so is whoever orders the responses if it gives no log-probabilities.
    Of several teachers each is asked, and they vote unless score.combine says otherwise.

    Raises UserError for an unknown ranker or option.
    """
    if settings.rankers is not None:
        entries = settings.rankers if teacher is None else rankers_of(settings.rankers, teacher)
        return panel(entries, combine=settings.combine or ("votes" if isinstance(teacher, list) else "weights"))
    if settings.reward is None and isinstance(teacher, ServedModel) and not teacher.log_probs:
        return panel(rankers_of(["judge"], teacher))
    ratio = {} if settings.calibration is None else {"ratio": settings.calibration}
    entry = {"name": settings.reward or "log_prob", **ratio}
    if isinstance(teacher, list):
        return panel(rankers_of([entry], teacher), combine=settings.combine or "votes")
    return panel([entry])


class Scorer:
    """Scores chunks of whole groups, given as records of the respond stage.

    panel: the rankers. data_columns: what the data files hold beside the prompts, by group. cached: splits whose hidden
    states are stored in work/hidden, with the teacher's head beside it; of several teachers in work/teachers/<label>.
    """

    def __init__(
        self, context: LanguageContext, work: Path, panel: Panel, *, cached: Sequence[str], data_columns: RecordColumns
    ) -> None:
        self.context, self.recipe, self.models = context, context.recipe, context.models
        self.panel, self.data_columns = panel, data_columns
        each: dict[str | None, LanguageContext] = dict(context.teachers.items()) or {None: context}
        self.teachers = {
            label: TeacherScorer(own, work, label, cached=cached, data_columns=data_columns)
            for label, own in each.items()
        }

    @property
    def asked(self) -> list[Any]:
        """The teachers' models; None for one that is not in this process."""
        return [getattr(own.teacher, "model", None) for own in self.teachers.values()]

    def open(self, answers: Path) -> None:
        """Open the rankers, those that need no model first, and load the teachers.

        answers: folder for the answers of judges.
        """
        loaders = {label: (lambda own=own: own.teacher) for label, own in self.teachers.items()}
        several = {label: load for label, load in loaders.items() if label is not None}
        resources = Resources(
            teacher=loaders.get(None) if shows_tokens(self.recipe) else None,
            teachers=several,
            device=self.models.device,
            folder=answers,
            batch_size=self.recipe.score.batch_size,
            budgets=self.models.budgets,
        )
        self.panel.open(resources)
        for own in self.teachers.values():
            own.open()

    def __call__(self, number: int, groups: Sequence[Sequence[Record]]) -> list[Record]:
        """One record per response, of score.SCORES, in order; `number` names the chunk's hidden states."""
        records = [record for group in groups for record in group]
        means: dict[str | None, Means] = {}
        if shows_tokens(self.recipe):
            means = {label: own.means(number, records) for label, own in self.teachers.items()}
        ranked = self._ranked(groups, means)
        known = self._pooled(means, len(records))
        places = ((row, place, record) for row, group in enumerate(groups) for place, record in enumerate(group))
        return [
            {
                "id": record["id"],
                "group": record["group"],
                "tokens": len(record["response_ids"]),
                "teacher_mean_log_prob_nats": mean,
                "teacher_reward": _known(ranked.order.scores[row, place]),
                "ranker_scores": [_known(values[row, place]) for values in ranked.by_ranker.values()],
            }
            for (row, place, record), mean in zip(places, known, strict=True)
        ]

    def _pooled(self, means: Mapping[str | None, Means], count: int) -> Means:
        """The teachers' weighted mean per response, of those that are asked about it; None if none is."""
        weights = [getattr(self.teachers[label].recipe.teacher, "weight", 1.0) for label in means]
        found: list[float | None] = []
        for place in range(count):
            given = zip(weights, (each[place] for each in means.values()), strict=True)
            told = [(weight, mean) for weight, mean in given if mean is not None]
            total = sum(weight for weight, _ in told)
            found.append(sum(weight * mean for weight, mean in told) / total if told else None)
        return found

    def _ranked(self, groups: Sequence[Sequence[Record]], means: Mapping[str | None, Means]) -> Ranked:
        """The panel's word on these groups. means: of all responses, by teacher; empty without log-probabilities."""
        data = [self.data_columns[group[0]["group"]] for group in groups]
        names = {name for own in data for name in own.columns}
        columns: dict[str, list[Any]] = {name: [own.columns.get(name) for own in data] for name in names}
        for name in ("group", "prompt_ids"):
            columns[name] = [group[0][name] for group in groups]
        for name in ("response_ids", "finished", "data_score"):
            columns[name] = [[record[name] for record in group] for group in groups]
        for label, values in means.items():
            each = iter(values)
            columns[column_of(label)] = [[next(each) for _ in group] for group in groups]
        system = self.recipe.data.system
        prompts = [own.asked(group[0]["messages"], system=system) for own, group in zip(data, groups, strict=True)]
        return self.panel(prompts, [[record["response"] for record in group] for group in groups], columns)


def _known(score: float) -> float | None:
    return None if math.isnan(score) else float(score)
