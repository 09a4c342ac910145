"""What every ranker is: options in a dataclass, and scores of the responses of a group."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from grkd.endpoint.launch import Budgets
from grkd.errors import UserError
from grkd.teacher.annotator import Verdict

Need = Literal["none", "teacher", "device", "endpoint"]
Messages = list[dict[str, str]]
Prompt = str | Messages
Prompts = Sequence[Prompt]
Responses = Sequence[Sequence[str]]
Columns = Mapping[str, Sequence[Any]]
Scores = Float[np.ndarray, "groups n"]
Value = float | int | None  # of one response; None and NaN: no opinion
# Reserved columns: a value per group, or per response. teacher_log_prob may have a teacher's label behind it.
PER_GROUP = ("group", "prompt_ids")
PER_RESPONSE = ("response_ids", "finished", "data_score", "teacher_log_prob")
Given = Sequence[Sequence[Value]]  # one list per group


class Tally(NamedTuple):
    """A sum, and the number of things that it is the mean of. Tallies of parts add up.

    Parameters
    ----------
    total : float
        The sum.
    over : int
        The number; 0: a plain count.

    Examples
    --------
    >>> from grkd.rankers import Tally
    >>> (Tally(1.0, 2) + Tally(2.0, 2)).value
    0.75
    """

    total: float
    over: int

    def __add__(self, other: "Tally") -> "Tally":  # type: ignore[override]
        return Tally(self.total + other.total, self.over + other.over)

    @property
    def value(self) -> float:
        return float(self.total / self.over if self.over else self.total)


@runtime_checkable
class Teacher(Protocol):
    """What rankers ask of a teacher, local or served. One list per group, one value per response."""

    def mean_log_probs(self, prompts: Prompts, responses: Responses, columns: Columns) -> Sequence[Sequence[float]]:
        """Mean token log-probability of each response, in nats per token.

        Columns prompt_ids and response_ids hold token ids of the student's vocabulary: a teacher that shares it must
        score those, since text that is tokenised again can have other tokens.
        """
        ...

    def choices(self, prompts: Prompts, responses: Responses, columns: Columns) -> Sequence[Verdict]:
        """The teacher's choice between the responses of each group; column group names them in errors."""
        ...


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What rankers may use.

    Parameters
    ----------
    teacher : callable, optional
        Loads the teacher; called when a ranker needs it. None: there is none.
    teachers : mapping of str to callable
        The same for each of several teachers, by its label.
    device : torch.device
        For rankers that load a model.
    folder : Path, optional
        For answers of endpoints, kept between runs. None: they are kept in memory.
    batch_size : int
        Sequences at a time.
    budgets : Budgets
        Of endpoints, shared by all rankers that are given these.
    """

    teacher: Callable[[], Teacher] | None = None
    teachers: Mapping[str, Callable[[], Teacher]] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    folder: Path | None = None
    batch_size: int = 8
    budgets: Budgets = field(default_factory=Budgets)


@dataclass(kw_only=True)
class Ranker(ABC):
    """Scores the responses of each group: higher is better, NaN is no opinion.

    A subclass is a dataclass of options with a method `score`. Calling a ranker gives float64 [groups, n].

    Parameters
    ----------
    prompts : sequence of str or messages
        Of a call: one per group.
    responses : sequence of sequence of str
        Of a call: the texts of each group. Shorter lists are padded with NaN.
    columns : mapping of str to sequence, optional
        Of a call: the records' other columns, one value per group. Reserved names: group (id), prompt_ids (token ids);
        with one entry per response: response_ids, finished (it ended by itself), data_score, and teacher_log_prob (so
        that no second forward pass is made).

    Attributes
    ----------
    needs : {"none", "teacher", "device", "endpoint"}
        What `open` takes from its resources: "device" loads a model, "endpoint" asks over HTTP.

    Raises
    ------
    UserError
        For a missing column, and for an infinite score.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from grkd.rankers import Ranker
    >>> @dataclass(kw_only=True)
    ... class Shortest(Ranker):
    ...     def score(self, prompts, responses, columns):
    ...         return [[-len(text) for text in group] for group in responses]
    >>> Shortest()(["Hi"], [["Hello!", "Hi."]])
    array([[-6., -3.]])
    """

    needs: ClassVar[Need] = "none"
    name: ClassVar[str]

    tallies: dict[str, Tally] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __init_subclass__(cls) -> None:
        """Its name: the file's name in this folder, else the class's."""
        folder, _, file = cls.__module__.rpartition(".")
        cls.name = file if folder == "grkd.rankers" else cls.__name__

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the columns without which it cannot work."""
        return ()

    def check(self) -> None:  # noqa: B027
        """Raises UserError for what would end `open` and needs no weights and no network; before a run begins."""

    def open(self, resources: Resources) -> None:  # noqa: B027  (most rankers need nothing)
        """Load and check what it needs. Raises UserError, before the first group is scored."""

    @final
    def __call__(self, prompts: Prompts, responses: Responses, columns: Columns | None = None) -> Scores:
        """Scores of all responses. Raises UserError for a missing column and for an infinite score."""
        columns = columns or {}
        if len(prompts) != len(responses):
            raise ValueError(f"{len(prompts)} prompts but {len(responses)} groups of responses")
        for column in self.reads:
            if column not in columns:
                known = ", ".join(sorted(columns)) or "none"
                raise UserError(f"ranker {self.name}: the records have no column {column!r}; they have: {known}")
        scores = padded(self.score(prompts, responses, columns), responses)
        if np.isinf(scores).any():
            group, place = np.argwhere(np.isinf(scores))[0]
            text = " ".join(responses[group][place].split())[:60]
            raise UserError(
                f"ranker {self.name}: the score of a response is {scores[group, place]} ({text!r}); "
                "scores must be finite, or NaN (None) for no opinion"
            )
        return scores

    @abstractmethod
    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        """One list per group, one score per response; None or NaN for no opinion."""

    def tally(self, name: str, value: float | int, over: int = 0) -> None:
        """Count something that a user should know, such as unreadable answers: see Tally."""
        self.tallies[name] = self.tallies.get(name, Tally(0.0, 0)) + Tally(float(value), over)

    def identity(self) -> dict[str, Any]:
        """What its scores depend on: its options, but for those that say only how it works (`operational`)."""
        kept = (field for field in fields(self) if field.init and not field.metadata.get("operational"))
        return {"name": self.name, **{field.name: getattr(self, field.name) for field in kept}}

    def close(self) -> None:  # noqa: B027
        """Free what `open` loaded."""


def padded(values: Given, responses: Responses) -> Scores:
    """Values per response as float64 [groups, n]; NaN for None and where a group has fewer than n responses.

    n: the largest number of responses. Raises ValueError for another number of values than responses.
    """
    if len(values) != len(responses):
        raise ValueError(f"{len(values)} groups of scores for {len(responses)} groups of responses")
    found = np.full((len(responses), max(map(len, responses), default=0)), np.nan)
    for row, (scores, texts) in enumerate(zip(values, responses, strict=True)):
        if len(scores) != len(texts):
            raise ValueError(f"{len(scores)} scores for {len(texts)} responses")
        found[row, : len(texts)] = [np.nan if score is None else float(score) for score in scores]
    return found


def conversation(prompt: Prompt) -> Messages:
    """A prompt as messages: text is one user message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
