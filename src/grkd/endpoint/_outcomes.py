"""What a request costs and how it can end."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from grkd.files import read_json, write_json


class RequestFailed(Exception):
    """One request got no answer; the others may. Its text is the reason.

    refused: the endpoint is there and says no to this very request (a prompt too long for it, say).
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class BadAnswer(Exception):
    """An answer came, and it is not what was asked for; it may be asked for again. Its text is the reason."""


class BudgetReached(Exception):
    """The next request would pass the budget. Its text is one line for the user."""


@dataclass
class Budget:
    """The most requests and tokens (prompt and completion) that may be used; None: no limit.

    Every try counts as a request. Requests on their way are finished, so tokens may end above by those. All requests of
    a process run in one thread, so nothing is counted twice. shared: a word on who has the rest of a larger budget.
    ledger: a file with what is used, which other processes and later objects count in too.
    """

    max_requests: int | None = None
    max_tokens: int | None = None
    requests: int = 0
    tokens: int = 0
    shared: str = ""
    ledger: Path | None = None

    def take(self) -> None:
        """Count one request. Raises BudgetReached instead if there is none left."""
        with self._counted():
            if self.max_requests is not None and self.requests >= self.max_requests:
                raise BudgetReached(f"the budget of {self.max_requests} requests{self.shared} is used up")
            if self.max_tokens is not None and self.tokens >= self.max_tokens:
                raise BudgetReached(f"the budget of {self.max_tokens} tokens{self.shared} is used up")
            self.requests += 1

    def spend(self, tokens: int) -> None:
        """Count the tokens of an answer."""
        with self._counted():
            self.tokens += tokens

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Counts as the ledger has them, which nobody else changes meanwhile; written unless an error is raised."""
        if self.ledger is None:
            yield
            return
        with FileLock(f"{self.ledger}.lock"):
            if self.ledger.exists():
                self.requests, self.tokens = read_json(self.ledger)
            yield
            write_json(self.ledger, [self.requests, self.tokens])


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back, and what it cost.

    logprobs: one object per token as OpenAI writes them (token, logprob, top_logprobs), None if none were given.
    tokens_estimated: the endpoint did not count; a token is taken to be four characters.
    """

    text: str
    logprobs: list[dict[str, Any]] | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    tokens_estimated: bool
    seconds: float
    tries: int
