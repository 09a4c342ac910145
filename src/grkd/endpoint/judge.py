"""A judge behind an OpenAI-compatible endpoint, whose judgements are stored one by one and never asked for twice."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grkd.endpoint.client import Budget, BudgetReached, Endpoint, Messages, RequestFailed
from grkd.endpoint.journal import Journal
from grkd.endpoint.loop import wait_for
from grkd.endpoint.several import fetch
from grkd.errors import UserError
from grkd.files import digest

__all__ = ["Budget", "BudgetReached", "Judge", "Judgement", "Judgements", "Request", "RequestFailed"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked: messages and sampling. `id` only names it in the store and the report."""

    id: str
    messages: Messages
    max_tokens: int
    logprobs: int | None = None
    temperature: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A judge's answer and its cost. logprobs: one object per token as OpenAI writes them, or None.

    finish_reason: "length" if the limit of tokens cut it.
    """

    text: str
    logprobs: list[dict[str, Any]] | None
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    finish_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Judgements:
    """Judgements by request id, the reasons of requests given up, and why it ended early (None: it did not).

    refused: ids of the failures that the endpoint would refuse again, such as prompts over its context length.
    """

    judgements: dict[str, Judgement]
    failures: dict[str, str]
    stopped: str | None
    refused: frozenset[str] = frozenset()

    @property
    def complete(self) -> bool:
        return not self.failures and self.stopped is None


class Judge:
    """Asks a judge, `concurrency` requests at a time; every judgement is a line of `store` as soon as it is there
    (None: it is kept in memory).

    A request whose judgement is stored is not sent again; the same model's judgement counts whatever its URL was.
    Raises UserError if the openai package or the key is missing or the URL is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        store: Path | None,
        key_env: str | None = None,
        concurrency: int = 4,
        retries: int = 5,
        timeout_seconds: float = 600.0,
        backoff_seconds: float = 0.5,
        budget: Budget | None = None,
    ) -> None:
        if concurrency < 1:
            raise UserError(f"concurrency must be 1 or more, got {concurrency}")
        self.model, self.concurrency = model, concurrency
        self.endpoint = Endpoint(
            url,
            model,
            role="judge",
            key_env=key_env,
            retries=retries,
            timeout_seconds=timeout_seconds,
            backoff_seconds=backoff_seconds,
            budget=budget,
        )
        self._store = Journal(store)

    def check(self) -> None:
        """Find out before the work starts whether the endpoint is there, takes the key and knows the model.

        If it has judged for this store before, nothing is asked, so that a finished run needs no judge. The model
        is asked a question, which is stored, only where the endpoint does not list it. Raises UserError.
        """
        if any(record["judge"] == self.model for record in self._store):
            return
        if self.model in (self.endpoint.served() or []):
            return
        ping: Messages = [{"role": "user", "content": "Answer with one word: are you there?"}]
        try:
            self.ask(ping, max_tokens=1, logprobs=None, id="check")
        except RequestFailed as failure:
            raise UserError(f"judge: {self.endpoint.url} does not answer as {self.model!r}: {failure}") from None

    def ask(
        self, messages: Messages, *, max_tokens: int, logprobs: int | None, temperature: float = 0.0, id: str = ""
    ) -> Judgement:
        """One judgement, from the store or from the endpoint. Raises UserError, RequestFailed, BudgetReached."""
        request = Request(id=id, messages=messages, max_tokens=max_tokens, logprobs=logprobs, temperature=temperature)
        return wait_for(self._ask(request))

    def ask_all(self, requests: Sequence[Request], *, description: str = "judge") -> Judgements:
        """All judgements; equal requests are asked once. A used-up budget ends it early.

        Requests given up are reported, not stored, so the next run asks again.
        Raises UserError for a key, model or URL that cannot work, and after three requests in a row without an answer.
        """
        by_key: dict[str, list[Request]] = {}
        for request in requests:
            by_key.setdefault(self.key(request), []).append(request)
        found = {key: self._stored(key) for key in by_key}
        missing = [key for key in by_key if found[key] is None]
        failures: dict[str, RequestFailed] = {}
        stopped = None
        if missing:
            calls = {key: partial(self._ask, by_key[key][0]) for key in missing}
            failures, stopped = fetch(
                self.endpoint, calls, concurrency=self.concurrency, description=description, unit="judgements"
            )
            found |= {key: self._stored(key) for key in missing}
        return Judgements(
            judgements={r.id: judged for key, judged in found.items() if judged is not None for r in by_key[key]},
            failures={r.id: str(failure) for key, failure in failures.items() for r in by_key[key]},
            stopped=stopped,
            refused=frozenset(r.id for key, failure in failures.items() if failure.refused for r in by_key[key]),
        )

    def key(self, request: Request) -> str:
        """What a judgement is stored under: digest of the judge's name and all that was asked."""
        return digest([self.model, request.messages, request.max_tokens, request.logprobs, request.temperature])

    def cost(self, requests: Sequence[Request]) -> dict[str, Any]:
        """Sums over the stored judgements of these requests: judgements, tries, tokens, seconds, and URLs."""
        records = [self._store.get(key) for key in dict.fromkeys(map(self.key, requests))]
        there = [record for record in records if record is not None]
        sums = ("tries", "prompt_tokens", "completion_tokens", "seconds")
        return {
            "judgements": len(there),
            **{name: round(sum(record[name] for record in there), 3) for name in sums},
            "tokens_estimated": any(record["tokens_estimated"] for record in there),
            "urls": sorted({record["url"] for record in there}),
        }

    def _stored(self, key: str) -> Judgement | None:
        record = self._store.get(key)
        return None if record is None else Judgement(**{name: record[name] for name in Judgement.__annotations__})

    async def _ask(self, request: Request) -> Judgement:
        key = self.key(request)
        stored = self._stored(key)
        if stored is not None:
            return stored
        reply = await self.endpoint.complete(
            request.messages,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            logprobs=request.logprobs,
        )
        record = {
            "id": request.id,
            "judge": self.model,
            "url": self.endpoint.url,
            "request": {
                "messages": request.messages,
                "max_tokens": request.max_tokens,
                "logprobs": request.logprobs,
                "temperature": request.temperature,
            },
            "left_out": list(self.endpoint.dropped),
            **vars(reply),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        self._store.add(key, record)
        judged = self._stored(key)
        assert judged is not None
        return judged
