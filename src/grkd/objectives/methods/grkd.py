"""GRKD: the teacher's order over a group, mixed with soft targets."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from grkd import schedules
from grkd.errors import UserError
from grkd.objectives import parts
from grkd.objectives._base import Across, LeastTeacher, Objective
from grkd.objectives._batch import Batch, Level
from grkd.objectives._option_checks import above_zero, not_negative
from grkd.objectives._options import Mistake, Option, converted, mistakes, option, options_of
from grkd.objectives._teacher_temperature import sharpened
from grkd.objectives._terms import Term, label_term
from grkd.objectives.parts import Part, ScorePair
from grkd.objectives.parts.pairs import Pairs
from grkd.objectives.presets import PRESETS

_LISTS = ("ranking", "anchor")


@dataclass(frozen=True, kw_only=True)
class GRKD(Objective):
    """Group Relative Knowledge Distillation: pairs of a group in the teacher's order, anchored by soft targets.

    L = alpha * sum of the ranking parts + (1 - alpha) * sum of the anchor parts + label_weight * CE(labels)
    The defaults are the paper's: ranking (Pairs(),), anchor (SoftTarget(),), alpha linear from 0 to 1.
    Each part has its own weight and level: rows (classes, or the tokens of responses) or responses of a prompt; each
    level's terms are divided by its own number of rows. Parts with weight 0 throughout are not computed.
    teacher_temperature: below 1 it sharpens an underconfident teacher, such as one trained on wrong labels, so that the
    student's own probabilities become sharp. (The temperature of a part applies to both teacher and student.)
    on_policy_fraction: fraction of prompts with responses sampled during training, as in gkd. Parts on responses
    need rankers for this.
    Raises UserError for options out of range, or if every weight is 0.
    Source: arXiv 2504.20482.
    """

    learns_from = (
        "the teacher's order over a group of candidates, and its soft targets; "
        "of tokens or classes, of responses, or both"
    )
    minimises = "alpha * group relative loss + (1 - alpha) * soft targets"
    source = "arXiv 2504.20482"

    ranking: tuple[Part, ...] = option(PRESETS["paper"]["ranking"], "parts weighted by alpha")
    anchor: tuple[Part, ...] = option(PRESETS["paper"]["anchor"], "parts weighted by 1 - alpha")
    alpha_shape: schedules.Shape = option("linear", "how alpha rises from the first step to the last")
    alpha_ceiling: float = option(1.0, "alpha at the last step, in [0, 1]")
    label_weight: float = option(0.0, "weight of the cross-entropy on hard labels")
    teacher_temperature: float = option(1.0, "divide the teacher's scores of rows by this before anything else")
    on_policy_fraction: float = option(0.0, "share of prompts trained on fresh responses of the student")

    def __post_init__(self) -> None:
        for name in _LISTS:
            object.__setattr__(self, name, parts.checked("grkd", name, getattr(self, name)))
        above_zero("grkd", self, "teacher_temperature")
        not_negative("grkd", self, "label_weight")
        for name in ("alpha_ceiling", "on_policy_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"grkd: {name} must be in [0, 1], got {getattr(self, name)}")
        if not self.levels:
            raise UserError("grkd: every loss term has weight 0; set the weight of a part, or label_weight, above 0")

    @classmethod
    def options(cls, given: Mapping[str, Any]) -> Mapping[str, Option]:
        """The fields, `preset`, and every option of the parts by its dotted path.

        pairs.tau: of every part of this name; ranking.pairs.tau: of those in the list; ranking.0.tau: by its number.
        """
        presets = Option("preset", Literal[tuple(PRESETS)], "paper", "composition to start from")
        found = {"preset": presets, **options_of(cls)}
        for name, number, part in _numbered(_lists(given)):
            for place in _places(name, number, part):
                for one in options_of(type(part)).values():
                    dotted = f"{place}.{one.name}"
                    found.setdefault(dotted, replace(one, name=dotted, default=getattr(part, one.name)))
        return found

    @classmethod
    def mistakes(cls, given: Mapping[str, Any]) -> list[Mistake]:
        found: list[Mistake] = []
        for name in _LISTS:
            entries = given.get(name, [])
            if not isinstance(entries, list | tuple):
                text = f"expected a list of parts, such as [{{part: pairs, tau: 0.5}}], got {entries!r}"
                found.append(Mistake((name,), entries, text=text))
                continue
            for number, entry in enumerate(entries):
                found += parts.mistakes_in(entry, (name, number))
        if found:
            return found
        known = cls.options(given)
        shown = {name: one for name, one in known.items() if not any(map(str.isdecimal, name.split(".")))}
        for name, value in given.items():
            found += mistakes(known if name in known else shown, {name: value})
        return found

    @classmethod
    def built(cls, given: Mapping[str, Any]) -> "GRKD":
        preset = PRESETS[given.get("preset", "paper")]
        own = {field.name for field in fields(cls)}
        plain = {name: value for name, value in given.items() if name in own and name not in _LISTS}
        try:
            return cls(**{**preset, **converted(options_of(cls), plain), **_composed(given)})
        except UserError as error:
            text = str(error)
            raise UserError(text if text.startswith("grkd: ") else f"grkd: {text}") from None

    @classmethod
    def spelt_out(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        built = cls.built(given)
        found: dict[str, Any] = {}
        for field in fields(cls):
            value = getattr(built, field.name)
            if value != field.default:
                found[field.name] = [parts.to_plain(part) for part in value] if field.name in _LISTS else value
        return found

    @property
    def levels(self) -> tuple[Level, ...]:
        labels = {"row"} if self.label_weight else set()
        used = labels | {part.level for name in _LISTS for part in self._active(name)}
        return tuple(level for level in get_args(Level) if level in used)

    @property
    def couples_rows(self) -> bool:
        return any(part.couples_rows for name in _LISTS for part in self._active(name))

    @property
    def on_policy(self) -> float:
        return self.on_policy_fraction

    @property
    def across_vocabularies(self) -> Across | None:
        return None if self.label_weight or self.on_policy_fraction else "shared"

    @property
    def takes_votes_on_rows(self) -> bool:
        return any(isinstance(part, Pairs) and part.over == "candidates" for part in self.active_parts("row"))

    @property
    def least_candidates(self) -> int:
        return max((part.least_candidates for part in self.active_parts("row")), default=2)

    @property
    def least_teacher(self) -> LeastTeacher:
        return self._least("row")

    @property
    def least_of_responses(self) -> LeastTeacher:
        return self._least("response")

    def _least(self, level: Level) -> LeastTeacher:
        return "tiers" if all(part.least_teacher == "tiers" for part in self.active_parts(level)) else "scores"

    def alpha(self, progress: float) -> float:
        """Weight of the ranking parts at this point of training."""
        return schedules.alpha(progress, shape=self.alpha_shape, ceiling=self.alpha_ceiling)

    def logged(self, progress: float) -> dict[str, float]:
        return {"alpha": self.alpha(progress)}

    def check_candidates(self, candidates: int) -> None:
        for part in self.active_parts("row"):
            part.check_candidates(candidates)

    def check_for_tokens(self) -> None:
        for part in self.active_parts("row"):
            part.check_for_tokens()

    @property
    def head_names(self) -> tuple[str, str]:
        ranking, anchor = (self._active(name, "row") for name in _LISTS)
        pairs, divergence = super().head_names
        return ranking[0].term_name if ranking else pairs, anchor[0].term_name if anchor else divergence

    def head_options(self, progress: float) -> dict[str, Any] | None:
        ranking, anchor = (self._active(name, "row") for name in _LISTS)
        if not (ranking or anchor) or max(len(ranking), len(anchor)) > 1:
            return None
        if self.label_weight or self.teacher_temperature != 1.0:
            return None
        # The head multiplies pairs by alpha and a divergence by 1 - alpha itself.
        found = {"alpha": self.alpha(progress), "pair_scale": 0.0, "soft_scale": 0.0}
        for part, scale in [(part, "pair_scale") for part in ranking] + [(part, "soft_scale") for part in anchor]:
            wanted = part.head_options()
            if wanted is None or scale not in wanted:
                return None
            found |= wanted
        return found

    def terms(self, batch: Batch) -> tuple[Term, ...]:
        alpha = self.alpha(batch.progress)
        if batch.level == "row":
            batch = sharpened(batch, self.teacher_temperature)
        scores = ScorePair(student=batch.student, teacher_scores=batch.teacher, mask=batch.mask)
        found: list[Term] = []
        names: list[str] = []
        for name, share in zip(_LISTS, (alpha, 1 - alpha), strict=True):
            for part in self._active(name, batch.level):
                term = part.term(scores, batch, share)
                again = names.count(term.name)
                names.append(term.name)
                found.append(replace(term, name=f"{term.name}_{again + 1}") if again else term)
        if batch.level == "row" and self.label_weight:
            found.append(label_term(batch, self.label_weight))
        return tuple(found)

    def active_parts(self, level: Level) -> list[Part]:
        """The parts of both lists on a level that have a weight at some step of training."""
        return [part for name in _LISTS for part in self._active(name, level)]

    def _active(self, name: str, level: Level | None = None) -> list[Part]:
        """Parts of a list, and of a level, whose weight is above 0 at the first or the last step of training."""
        ends = [self.alpha(0.0), self.alpha(1.0)]
        share = max(ends) if name == "ranking" else 1 - min(ends)
        listed: tuple[Part, ...] = getattr(self, name)
        return [part for part in listed if share * part.weight > 0 and level in (None, part.level)]


def _lists(given: Mapping[str, Any]) -> dict[str, list[Part]]:
    """The parts of each list that the preset or the given lists say, before dotted paths change them."""
    named = given.get("preset")
    preset = PRESETS.get(named if isinstance(named, str) else "paper", PRESETS["paper"])
    return {name: [parts.read(entry) for entry in given.get(name, preset[name])] for name in _LISTS}


def _numbered(lists: Mapping[str, list[Part]]) -> list[tuple[str, int, Part]]:
    return [(name, number, part) for name, listed in lists.items() for number, part in enumerate(listed)]


def _places(name: str, number: int, part: Part) -> tuple[str, str, str]:
    """How a dotted path may begin that reaches this part."""
    short = part.short_name()
    return short, f"{name}.{short}", f"{name}.{number}"


def _composed(given: Mapping[str, Any]) -> dict[str, tuple[Part, ...]]:
    """Both lists with what dotted paths change in them; of several paths to one option the last given wins."""
    lists = _lists(given)
    for name, number, part in _numbered(lists):
        known = options_of(type(part))
        places = _places(name, number, part)
        paths = [path.rpartition(".") for path in given]
        changed = {one: given[f"{place}.{one}"] for place, _, one in paths if place in places and one in known}
        lists[name][number] = replace(part, **converted(known, changed))
    return {name: tuple(listed) for name, listed in lists.items()}


METHOD = GRKD
