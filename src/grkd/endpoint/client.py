"""An OpenAI-compatible endpoint: one request with retries, a budget, and errors that say what to change."""

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from grkd.endpoint._connection import (
    DEFAULT_KEY,
    Connection,
    base_url,
    estimated_tokens,
    key_of,
    plain_logprobs,
    reason_of,
    retry_after,
    token_counts,
    tokens_in,
)
from grkd.endpoint._outcomes import BadAnswer, Budget, BudgetReached, Reply, RequestFailed
from grkd.endpoint.loop import wait_for
from grkd.errors import UserError

__all__ = [
    "BadAnswer",
    "Budget",
    "BudgetReached",
    "Endpoint",
    "Messages",
    "Reply",
    "RequestFailed",
    "base_url",
    "key_of",
]

Messages = list[dict[str, str]]
Answer = TypeVar("Answer")
# What reading raises where an answer is none.
_NO_ANSWER = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError)

_LONGEST_WAIT_SECONDS = 120.0


class Endpoint:
    """`complete` asks one chat request of the model `model` behind `url`, `completion` one of text or token ids.

    Both are coroutines, for `grkd.endpoint.calls.Calls` (many) and `grkd.endpoint.loop.wait_for` (one).
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
        self.answered = False  # whether any request was
        self.dropped: list[str] = []  # options that the endpoint refused and that are left out since
        if not 0 < timeout_seconds < math.inf:
            raise UserError(f"{role}: the timeout must be above 0 seconds, got {timeout_seconds}")
        self._retries, self._backoff, self._timeout_seconds = retries, backoff_seconds, timeout_seconds
        self._key_env = key_env or DEFAULT_KEY
        self._key = key_of(self.url, key_env, role)
        self._limit = "max_tokens"
        self.connection = Connection(self.url, self._key or "none", timeout_seconds)

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r}, {self.model!r})"

    def served(self) -> list[str] | None:
        """Names of the models that the endpoint lists; None if it lists none. Raises UserError as `listed`."""
        return [str(model["id"]) for model in self.listed() or []] or None

    def listed(self) -> list[dict[str, Any]] | None:
        """The models that the endpoint lists, with all that it says of them; None if it has no list.

        Raises UserError for an endpoint that cannot be reached or refuses the key.
        """
        return wait_for(self._listed())

    async def _listed(self) -> list[dict[str, Any]] | None:
        import openai

        for tried in range(1, 3):
            try:
                found = await self.connection.client().models.list()
                return [{**model.to_dict(), "id": model.id} for model in found.data]
            except openai.APIConnectionError as error:
                if tried == 2:
                    raise UserError(self._unreachable(error)) from None
                await self.connection.pause(self._backoff)
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise UserError(self._refused_key(error)) from None
            except (openai.OpenAIError, *_NO_ANSWER):
                return None  # many servers have no list
        return None

    async def complete(
        self,
        messages: Messages,
        *,
        max_tokens: int,
        temperature: float = 0.0,
        logprobs: int | None = None,
        seed: int | None = None,
        top_p: float | None = None,
    ) -> Reply:
        """One answer. 429, 5xx, cut connections, timeouts and unreadable answers are tried again, ever later.

        A Retry-After header is obeyed. An option that the endpoint does not know (logprobs, seed, top_p, temperature)
        is left out from then on. Raises UserError for a refused key, an unknown model or an endpoint that was moved,
        RequestFailed for a request given up, BudgetReached.
        """
        options = {"temperature": temperature, "top_p": top_p, "seed": seed, "logprobs": logprobs}
        return await self._tried(
            lambda: self._body(messages, max_tokens, options),
            lambda client: client.chat.completions.create,
            lambda answer, seconds, tries: self._reply(answer, messages, seconds, tries),
            kind="chat completion",
            adapt=self._adapt,
        )

    async def completion(self, body: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Answer]) -> Answer:
        """One text completion: what `read` makes of the answer, a JSON object as the server wrote it.

        body: beside the model's name; keys that OpenAI does not know (prompt_logprobs, stop_token_ids) are sent too.
        An answer of which `read` raises BadAnswer, ValueError, TypeError or LookupError is asked for again; BadAnswer's
        text is what is reported in the end. Retries and errors are those of `complete`.
        """
        known = {"prompt", "max_tokens", "temperature", "top_p", "seed", "logprobs", "stop"}
        sent = {"model": self.model, **{name: value for name, value in body.items() if name in known}}
        sent["extra_body"] = {name: value for name, value in body.items() if name not in known}

        def opened(answer: Any, _seconds: float, _tries: int) -> Answer:
            found = answer.http_response.json()
            used = found.get("usage")
            counted = token_counts(SimpleNamespace(**used) if isinstance(used, dict) else None)
            self.budget.spend(estimated_tokens(body["prompt"], found) if counted is None else sum(counted))
            return read(found)

        return await self._tried(
            lambda: sent, lambda client: client.completions.with_raw_response.create, opened, kind="completion"
        )

    async def _tried(
        self,
        body: Callable[[], dict[str, Any]],
        create: Callable[[Any], Callable[..., Awaitable[Any]]],
        read: Callable[[Any, float, int], Answer],
        *,
        kind: str,
        adapt: Callable[[str, dict[str, Any]], bool] = lambda _refusal, _body: False,
    ) -> Answer:
        """What `read` makes of the answer, its seconds and its number of attempts; see `complete`.

        adapt: changes what `body` gives after a refusal; False if it cannot.
        """
        import openai

        begun, tries, last, unusable = time.monotonic(), 0, "", False
        while tries <= self._retries and not self.connection.stopped.is_set():
            self.budget.take()
            tries, unusable = tries + 1, False
            sent = body()
            try:
                # The client bounds each read: a server that sends a byte now and then would keep it for ever.
                async with asyncio.timeout(self._timeout_seconds):
                    answer = await create(self.connection.client())(**sent)
                found = read(answer, time.monotonic() - begun, tries)
                self.answered = True
                return found
            except openai.APIStatusError as error:
                last = await self._explained(error)
                if error.status_code in (400, 422):
                    if not adapt(last, sent):
                        raise RequestFailed(last, refused=True) from None
                    tries -= 1
                    continue
                wait = retry_after(error.response.headers.get("retry-after"))
            except (openai.APITimeoutError, TimeoutError):
                last, wait = "no answer in time", None
            except openai.APIConnectionError as error:
                last, wait = self._unreachable(error), None
            except BadAnswer as error:
                last, wait, unusable = str(error), None, True
            except UserError:
                raise
            except (openai.OpenAIError, *_NO_ANSWER):
                last, wait = f"its answer is no {kind}", None
            if tries <= self._retries:
                doubled = self._backoff * 2 ** (tries - 1) * random.uniform(0.75, 1.25)
                await self.connection.pause(min(doubled if wait is None else wait, _LONGEST_WAIT_SECONDS))
        raise RequestFailed(f"{last or 'stopped'} (tried {tries} times)", refused=unusable)

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
        counted = token_counts(getattr(answer, "usage", None))
        self.budget.spend(sum(counted or ()))  # first: a refusal, or thoughts without an answer, cost as much
        choice = answer.choices[0]
        text = choice.message.content
        if not isinstance(text, str):
            refusal = getattr(choice.message, "refusal", None)
            raise BadAnswer(f"it refuses: {self.clean(refusal)[:150]}") if isinstance(refusal, str) else TypeError
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair fits into no file
        asked = "".join(message["content"] for message in messages)
        counts = [tokens_in(asked), tokens_in(text)] if counted is None else counted
        if counted is None:
            self.budget.spend(sum(counts))
        given = getattr(choice.logprobs, "content", None)
        return Reply(
            text=self.clean(text),
            logprobs=plain_logprobs(given) if given else None,
            finish_reason=reason if isinstance(reason := choice.finish_reason, str) else None,
            prompt_tokens=counts[0],
            completion_tokens=counts[1],
            tokens_estimated=counted is None,
            seconds=round(seconds, 3),
            tries=tries,
        )

    async def _explained(self, error: Any) -> str:
        """The reason of a refusal that may pass or concerns one request; UserError for what the user must change."""
        status, said = error.status_code, self._said(error)
        if status in (401, 403):
            raise UserError(self._refused_key(error)) from None
        if status == 404:
            served = [str(model["id"]) for model in await self._listed() or []]
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
        reason = " ".join(reason_of(error).split())
        return f"{self.role}: cannot reach {self.url} ({self.clean(reason)[:150]}); check the URL and that it runs"

    def _adapt(self, refusal: str, body: dict[str, Any]) -> bool:
        """Leave out the option that a 400 or 422 complains of; False if it names none that can be left out."""
        if "max_tokens" in body and "max_completion_tokens" in refusal:
            self._limit = "max_completion_tokens"
            return True
        for name in ("logprobs", "seed", "top_p", "temperature"):
            if name in refusal and name in body:
                self.dropped = sorted({*self.dropped, name})
                return True
        return False
