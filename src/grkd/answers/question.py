"""Questions to a model, how its answers are drawn, and the answers. Needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Question:
    """A conversation's user turns; turn k is asked after the model's answers to those before."""

    id: str
    turns: tuple[str, ...]
    temperature: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn. At temperature 0, a question's default, top_p and seed have no part."""

    max_new_tokens: int
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Text:
    """An answer and its cost. finished: it ended by itself. too_long: the prompt left no room, the answer is empty."""

    text: str
    finished: bool
    prompt_tokens: int
    tokens: int
    seconds: float
    too_long: bool = False
