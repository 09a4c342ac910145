"""A judge behind an OpenAI-compatible endpoint: it orders a group at once, or compares its pairs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, ClassVar, Literal

import numpy as np

from grkd.endpoint.client import base_url, key_of
from grkd.endpoint.judge import Judge, Judgement, Request
from grkd.endpoint.launch import concurrency_of
from grkd.errors import UserError
from grkd.objectives import option
from grkd.rankers import _prompts
from grkd.rankers._base import Columns, Given, Need, Prompts, Ranker, Resources, Responses, conversation


@dataclass(kw_only=True)
class JudgeRanker(Ranker):
    """Share of the comparisons that a response wins by the judge's word, in [0, 1]; a tie is half a win.

    ask "list": one question per group shows all responses and asks for their order, and one shows them in reverse.
    ask "pairs": one question per ordered pair, n (n - 1) per group: dearer, and better for long responses.
    A comparison counts only if the answers of both orders can be read, so that a preference for a place cancels;
    the preference is reported as position_bias, unreadable and refused answers are counted. A response without any
    comparison has no score, nor has the one response of a group of one.
    Answers are stored as they come: nothing is asked twice, also after a kill. A used-up budget is a UserError.
    The key comes from the environment alone. Raises UserError for an endpoint that cannot be reached or used.
    """

    needs: ClassVar[Need] = "endpoint"

    url: str = option(help="of the server, such as http://127.0.0.1:8000/v1", operational=True)
    model: str = option(help="name under which the server knows the judge")
    ask: Literal["list", "pairs"] = option("list", help="one order per group, or its pairs")
    criteria: str | None = option(None, help="what is better, in place of the built-in sentence")
    max_requests: int | None = option(
        None, help="most requests of a command, retries included; null: no limit", operational=True
    )
    max_tokens: int | None = option(
        None, help="most tokens read and written, likewise; null: no limit", operational=True
    )
    answer_tokens: int = option(1024, help="longest answer; models that think need room")
    concurrency: int = option(8, help="requests at a time, of all processes", operational=True)
    retries: int = option(5, help="per request, with growing pauses", operational=True)
    timeout_seconds: float = option(600.0, help="longest wait for one answer", operational=True)
    key_env: str | None = option(None, help="environment variable with the key", operational=True)

    first_unreadable: str | None = field(default=None, init=False, repr=False, compare=False)
    _judge: Judge | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("answer_tokens", "concurrency", "max_requests", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"ranker judge: {name} must be 1 or more, got {value}")

    def check(self) -> None:
        key_of(base_url(self.url, "judge"), self.key_env, "judge")
        if not 0 < self.timeout_seconds < math.inf:
            raise UserError(f"ranker judge: timeout_seconds must be above 0, got {self.timeout_seconds}")

    def open(self, resources: Resources) -> None:
        folder = resources.folder
        self._judge = Judge(
            self.url,
            self.model,
            store=None if folder is None else folder / "judge.jsonl",
            key_env=self.key_env,
            concurrency=concurrency_of(self.concurrency),
            retries=self.retries,
            timeout_seconds=self.timeout_seconds,
            budget=resources.budgets.of(self.url, self.model, self.max_requests, self.max_tokens),
        )
        self._judge.check()

    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        orders = [_orders(len(texts), pairs=self.ask == "pairs") for texts in responses]
        judgements = self._asked(
            [
                self._request(f"{group}:{shown}", prompts[group], [responses[group][place] for place in shown])
                for group, asked in enumerate(orders)
                for shown in asked
            ]
        )
        return [
            self._of_group(len(texts), {shown: judgements.get(f"{group}:{shown}") for shown in orders[group]})
            for group, texts in enumerate(responses)
        ]

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "prompts": _prompts.VERSION}

    def close(self) -> None:
        self._judge = None

    def _request(self, name: str, prompt: Any, shown: Sequence[str]) -> Request:
        turns = conversation(prompt)
        if self.ask == "pairs":
            messages = _prompts.pair_prompt(turns, shown[0], shown[1], self.criteria)
        else:
            messages = _prompts.list_prompt(turns, shown, self.criteria)
        return Request(id=name, messages=messages, max_tokens=self.answer_tokens)

    def _asked(self, requests: Sequence[Request]) -> Mapping[str, Judgement]:
        """Judgements by name. Raises UserError if the budget is used up, or requests got no answer at all."""
        if self._judge is None:
            raise ValueError("open the ranker first")
        outcome = self._judge.ask_all(requests, description=f"judge ({self.model})")
        if outcome.stopped is not None:
            raise UserError(
                f"ranker judge: {outcome.stopped}; raise max_requests or max_tokens and repeat the command: "
                "answers so far are kept"
            )
        lost = {name: reason for name, reason in outcome.failures.items() if name not in outcome.refused}
        if lost:
            reason = next(iter(lost.values()))[:150]
            raise UserError(
                f"ranker judge: {len(lost)} requests got no answer ({reason}); repeat the command to resume"
            )
        self.tally("refused", len(outcome.refused))
        return outcome.judgements

    def _of_group(self, n: int, found: Mapping[tuple[int, ...], Judgement | None]) -> list[float | None]:
        """Mean share of won comparisons of each response."""
        above = {shown: self._read(shown, judged) for shown, judged in found.items() if judged is not None}
        won, compared = np.zeros(n), np.zeros(n)
        for shown, values in above.items():
            # Both ways round or not at all: one alone would let the judge's habit decide.
            if values is None or above.get(shown[::-1]) is None:
                continue
            for (first, second), value in values.items():
                won[[first, second]] += value, 1 - value
                compared[[first, second]] += 1
        return [None if not times else wins / times for wins, times in zip(won, compared, strict=True)]

    def _read(self, shown: tuple[int, ...], judged: Judgement) -> dict[tuple[int, int], float] | None:
        """How far the earlier response of each pair is above the later one: 1, 1/2 or 0; None if unreadable."""
        self.tally("answers", 1)
        said = _prompts.judged_part(judged.text, cut=judged.finish_reason == "length")
        values: dict[tuple[int, int], float] | None
        if self.ask == "pairs":
            better = _prompts.read_pair(said)
            values = None if better is None else {(shown[0], shown[1]): better}
        else:
            tiers = _prompts.read_list(said, len(shown))
            values = None if tiers is None else _earlier_above(shown, tiers)
        self.tally("unreadable", values is None)
        if values is None and self.first_unreadable is None:
            self.first_unreadable = judged.text
        if values is not None:
            self.tally("position_bias", sum(values.values()) - 0.5 * len(values), over=len(values))
        return values


def _orders(n: int, *, pairs: bool) -> list[tuple[int, ...]]:
    """The orders in which responses are shown: all ordered pairs, or all responses and their reverse."""
    if n < 2:
        return []
    if pairs:
        return list(permutations(range(n), 2))
    whole = tuple(range(n))
    return [whole, whole[::-1]]


def _earlier_above(shown: Sequence[int], tiers: Sequence[int]) -> dict[tuple[int, int], float]:
    """Of every pair (shown earlier, shown later): 1 if the earlier is in a better tier, 1/2 in the same, else 0."""
    return {
        (shown[first], shown[second]): 0.5 + 0.5 * float(np.sign(tiers[second] - tiers[first]))
        for first in range(len(shown))
        for second in range(first + 1, len(shown))
    }


RANKER = JudgeRanker
