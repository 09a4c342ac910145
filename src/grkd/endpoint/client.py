"""An OpenAI-compatible chat endpoint: one request with retries, a budget, and errors that say what to change."""

import math
import random
import re
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from grkd.endpoint._connection import DEFAULT_KEY, base_url, client_for, key_of, plain_logprobs, retry_after
from grkd.endpoint.threads import within
from grkd.errors import UserError

Messages = list[dict[str, str]]

_LONGEST_WAIT_SECONDS = 120.0
_CHARACTERS_A_TOKEN = 4  # where the endpoint does not say how many tokens it used


class RequestFailed(Exception):
    """One request got no answer; the others may. Its text is the reason.

    refused: the endpoint is there and says no to this very request (a prompt too long for it, say).
    """

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class BudgetReached(Exception):
    """The next request would pass the budget. Its text is one line for the user."""


@dataclass
class Budget:
    """The most requests and tokens (prompt and completion) that may be used; None: no limit.

    Every try counts as a request. Requests on their way are finished, so tokens may end above by those.
    """

    max_requests: int | None = None
    max_tokens: int | None = None
    requests: int = 0
    tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self) -> None:
        """Count one request. Raises BudgetReached instead where there is none left."""
        with self._lock:
            if self.max_requests is not None and self.requests >= self.max_requests:
                raise BudgetReached(f"the budget of {self.max_requests} requests is used up")
            if self.max_tokens is not None and self.tokens >= self.max_tokens:
                raise BudgetReached(f"the budget of {self.max_tokens} tokens is used up")
            self.requests += 1

    def spend(self, tokens: int) -> None:
        with self._lock:
            self.tokens += tokens


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back, and what it cost.

    logprobs: one object per token as OpenAI writes them (token, logprob, top_logprobs), None where none were given.
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


class Endpoint:
    """`complete` asks one chat request of the model `model` behind `url`.

    role: how messages call it ("judge"). key_env: the environment variable with the key; by default OPENAI_API_KEY,
    which a server behind plain http may do without. The key goes into the request's header and nowhere else: it is
    taken out of every text that leaves this class. Redirects are not followed, since they lead to a server that the
    user did not name.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        role: str,
        key_env: str | None = None,
        retries: int = 5,
        timeout_seconds: float = 600.0,
        backoff_seconds: float = 0.5,
        budget: Budget | None = None,
    ) -> None:
        self.url, self.model, self.role = base_url(url, role), model, role
        self.budget = budget or Budget()
        self.stopped = threading.Event()
        self.dropped: list[str] = []  # options that the endpoint refused and that are left out since
        if not 0 < timeout_seconds < math.inf:
            raise UserError(f"{role}: the timeout must be above 0 seconds, got {timeout_seconds}")
        self._retries, self._backoff, self._timeout_seconds = retries, backoff_seconds, timeout_seconds
        self._key_env = key_env or DEFAULT_KEY
        self._key = key_of(self.url, key_env, role)
        self._client = client_for(self.url, self._key or "none", timeout_seconds)
        self._limit = "max_tokens"
        weakref.finalize(self, self._client.close)  # its open connections

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.model!r})"

    def served(self) -> list[str] | None:
        """Names of the models that the endpoint lists; None where it lists none.

        Raises UserError for an endpoint that cannot be reached or refuses the key.
        """
        import openai

        for tried in range(1, 3):
            try:
                return [str(model.id) for model in self._client.models.list().data] or None
            except openai.APIConnectionError as error:
                if tried == 2:
                    raise UserError(self._unreachable(error)) from None
                self.stopped.wait(self._backoff)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise UserError(self._refused_key(error)) from None
            except (openai.OpenAIError, ValueError, TypeError, AttributeError):
                return None  # many servers have no list
        return None

    def complete(
        self,
        messages: Messages,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        logprobs: int | None = None,
        seed: int | None = None,
    ) -> Reply:
        """One answer. 429, 5xx, cut connections, timeouts and unreadable answers are tried again, ever later.

        A Retry-After header is obeyed. An option that the endpoint does not know (logprobs, seed, temperature) is left
        out from then on. Raises UserError for a refused key, an unknown model or an endpoint that was moved,
        RequestFailed for a request given up, BudgetReached.
        """
        import openai

        begun, tries = time.monotonic(), 0
        options = {"temperature": temperature, "seed": seed, "logprobs": logprobs}
        last = ""
        while tries <= self._retries and not self.stopped.is_set():
            self.budget.take()
            tries += 1
            body = self._body(messages, max_tokens, options)
            try:
                answer = within(self._timeout_seconds, partial(self._client.chat.completions.create, **body))
                return self._reply(answer, messages, time.monotonic() - begun, tries)
            except openai.APIStatusError as error:
                last = self._explained(error)
                if error.status_code in (400, 422):
                    if not self._adapt(last, body):
                        raise RequestFailed(last, refused=True) from None
                    tries -= 1
                    continue
                wait = retry_after(error.response.headers.get("retry-after"))
            except (openai.APITimeoutError, TimeoutError):
                last, wait = "no answer in time", None
            except openai.APIConnectionError as error:
                last, wait = self._unreachable(error), None
            except (openai.OpenAIError, ValueError, TypeError, AttributeError, LookupError):
                last, wait = "its answer is no chat completion", None
            if tries <= self._retries:
                doubled = self._backoff * 2 ** (tries - 1) * random.uniform(0.75, 1.25)
                self.stopped.wait(min(doubled if wait is None else wait, _LONGEST_WAIT_SECONDS))
        raise RequestFailed(f"{last or 'stopped'} (tried {tries} times)")

    @contextmanager
    def one_try_after_an_error(self) -> Iterator[None]:
        """After an error inside the block, requests on their way come in or fail; they are not tried again."""
        try:
            yield
        except BaseException:
            self.stopped.set()
            raise

    def clean(self, text: str) -> str:
        """The text without the key, in case a server repeats it."""
        return text.replace(self._key, "[key]") if self._key else text

    def _body(self, messages: Messages, max_tokens: int, options: dict[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": messages, self._limit: max_tokens}
        for name, value in options.items():
            if value is None or name in self.dropped:
                continue
            body |= {"logprobs": True, "top_logprobs": value} if name == "logprobs" else {name: value}
        return body

    def _reply(self, answer: Any, messages: Messages, seconds: float, tries: int) -> Reply:
        choice = answer.choices[0]
        text = choice.message.content
        if not isinstance(text, str):
            raise TypeError("content is no text")
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair fits into no file
        used = [getattr(answer.usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
        counts = [count for count in used if isinstance(count, int)]
        estimated = len(counts) < 2
        if estimated:
            sizes = (sum(len(message["content"]) for message in messages), len(text))
            counts = [-(-size // _CHARACTERS_A_TOKEN) for size in sizes]
        self.budget.spend(sum(counts))
        given = getattr(choice.logprobs, "content", None)
        return Reply(
            text=self.clean(text),
            logprobs=plain_logprobs(given) if given else None,
            finish_reason=choice.finish_reason,
            prompt_tokens=counts[0],
            completion_tokens=counts[1],
            tokens_estimated=estimated,
            seconds=round(seconds, 3),
            tries=tries,
        )

    def _explained(self, error: Any) -> str:
        """The reason of a refusal that may pass or concerns one request; UserError for what the user must change."""
        status, said = error.status_code, self._said(error)
        if status in (401, 403):
            raise UserError(self._refused_key(error)) from None
        if status == 404:
            served = self.served()
            hint = f"it serves {', '.join(served[:10])}" if served else "check the model's name and the URL's path"
            raise UserError(f"{self.role}: {self.url} knows no model {self.model!r} ({said}); {hint}") from None
        if 300 <= status < 400:
            place = urlsplit(error.response.headers.get("location") or "").netloc
            raise UserError(f"{self.role}: {self.url} sends on to {place or 'elsewhere'}; give that URL") from None
        if "insufficient_quota" in (error.code, error.type):
            raise UserError(f"{self.role}: {self.url}: the account's quota is used up ({said})") from None
        return f"status {status}: {said}"

    def _said(self, error: Any) -> str:
        body = error.body
        for name in ("error", "message", "detail"):
            if isinstance(body, dict) and body.get(name):
                body = body[name]
        text = " ".join(self.clean(str(body or error.message)).split())
        return re.sub(r"<[^>]*>", "", text)[:200]

    def _refused_key(self, error: Any) -> str:
        state = "refuses the key in" if self._key else "wants a key; set"
        return f"{self.role}: {self.url} {state} {self._key_env} ({self._said(error)})"

    def _unreachable(self, error: Any) -> str:
        reason = " ".join(str(error.__cause__ or error).split())
        return f"{self.role}: cannot reach {self.url} ({self.clean(reason)[:150]}); check the URL and that it runs"

    def _adapt(self, refusal: str, body: dict[str, Any]) -> bool:
        """Leave out the option that a 400 or 422 complains of; False where it names none that can be left out."""
        if "max_tokens" in body and "max_completion_tokens" in refusal:
            self._limit = "max_completion_tokens"
            return True
        for name in ("logprobs", "seed", "temperature"):
            if name in refusal and name in body:
                self.dropped = sorted({*self.dropped, name})
                return True
        return False
