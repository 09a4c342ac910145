"""What lies between an endpoint's URL and its answers: the URL's form, the key, the client, headers and numbers."""

import asyncio
import math
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from grkd.endpoint.loop import event_loop
from grkd.errors import UserError

DEFAULT_KEY = "OPENAI_API_KEY"
_CHARACTERS_A_TOKEN = 4  # where the endpoint does not say how many tokens it used
_MOST_TOKENS = 10**9  # of one request; more is no count
_NO_CHANCE = -9999.0  # what OpenAI writes for a token that cannot come


def base_url(url: str, role: str) -> str:
    """The URL as the client wants it: with /v1 where it has no path. Raises UserError for one that holds secrets."""
    parts = urlsplit(url.strip())
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("http", "https") or not host:
        raise UserError(f"{role}: a URL looks like http://127.0.0.1:8000/v1; this one does not")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(f"{role}: remove everything but host and path from the URL; keys come from the environment")
    name = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return urlunsplit((parts.scheme, name if port is None else f"{name}:{port}", path or "/v1", "", ""))


def key_of(url: str, key_env: str | None, role: str) -> str:
    """The key out of the environment, "" where the URL may do without. Raises UserError for a key that is missing."""
    name = key_env or DEFAULT_KEY
    key = os.environ.get(name, "").strip()
    if not key and (key_env is not None or url.startswith("https://")):
        raise UserError(f"{role}: no key for {url}; set the environment variable {name}")
    if not key.isascii() or not key.isprintable():
        raise UserError(f"{role}: the key in {name} contains characters that are invalid in a key; set it again")
    return key


class Connection:
    """An openai client that retries nothing by itself and follows no redirect, and a word that ends all waiting.

    A forked process gets a client of its own: connections and locks are its parent's. Raises UserError without openai.
    """

    def __init__(self, url: str, key: str, timeout_seconds: float) -> None:
        self._url, self._key, self._timeout_seconds, self._process = url, key, timeout_seconds, 0
        self.client()

    def client(self) -> Any:
        """The client of this process."""
        if self._process != os.getpid():
            self._process, self._client = os.getpid(), _client_for(self._url, self._key, self._timeout_seconds)
            self.resume()
            weakref.finalize(self, _close, self._client, self._process).atexit = False
        return self._client

    def resume(self) -> None:
        """Failed requests are tried again, after `stop`."""
        self.stopped = asyncio.Event()

    def stop(self) -> None:
        """From now on requests on their way come in or fail; none is tried again, and none waits to be."""
        event_loop().call_soon_threadsafe(self.stopped.set)

    async def pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stopped.wait(), seconds)


def reason_of(error: BaseException) -> str:
    """Why a connection failed: the system's word if it has one, which lies below the client's own errors."""
    said = str(error.__cause__ or error)
    below = error.__cause__ or error.__context__
    while below is not None:
        number = getattr(below, "errno", None)
        if isinstance(below, OSError) and isinstance(number, int) and number > 0:
            return os.strerror(number)
        below = below.__cause__ or below.__context__
    return said


def _client_for(url: str, key: str, timeout_seconds: float) -> Any:
    try:
        import openai
    except ImportError:
        raise UserError("a judge or a model behind a URL needs openai: pip install 'grkd[served]'") from None
    local = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    http = openai.DefaultAsyncHttpxClient(follow_redirects=False, trust_env=not local, timeout=timeout_seconds)
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=timeout_seconds, http_client=http)


def _close(client: Any, process: int) -> None:
    """Close a client's connections, in the process and loop that opened them."""
    if process == os.getpid():
        asyncio.run_coroutine_threadsafe(client.close(), event_loop())


def plain_logprobs(tokens: Any) -> list[dict[str, Any]]:
    """Tokens and log-probabilities as plain values; some servers write minus infinity, which JSON has not.

    None stands for NaN and for plus infinity, which a broken server writes.
    """

    def one(token: Any) -> dict[str, Any]:
        value = float(token.logprob)
        return {"token": str(token.token), "logprob": max(value, _NO_CHANCE) if value < math.inf else None}

    return [{**one(token), "top_logprobs": [one(other) for other in token.top_logprobs or []]} for token in tokens]


def token_counts(usage: Any) -> list[int] | None:
    """Tokens of prompt and completion as the endpoint counted them; None if it did not, or wrote what is no count."""
    counts: list[int] = []
    for name in ("prompt_tokens", "completion_tokens"):
        count = getattr(usage, name, None)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < _MOST_TOKENS:
            return None
        counts.append(count)
    return counts


def tokens_in(text: str | Sequence[int]) -> int:
    """Of token ids their number; of a text an estimate."""
    return -(-len(text) // _CHARACTERS_A_TOKEN) if isinstance(text, str) else len(text)


def estimated_tokens(prompt: str | Sequence[int], answer: Mapping[str, Any]) -> int:
    """Tokens of a text completion that its server did not count."""
    choices = answer.get("choices")
    texts = [each.get("text") for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
    return tokens_in(prompt) + sum(tokens_in(text) for text in texts if isinstance(text, str))


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date."""
    if not value:
        return None
    try:
        seconds = float(value)
        return None if math.isnan(seconds) else max(seconds, 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
