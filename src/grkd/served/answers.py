"""What a server's text completions say, checked: a wrong answer is named here, before anything is learnt from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grkd.endpoint.client import BadAnswer
from grkd.errors import UserError

_MOST_TOKENS = 2**31  # ids are kept as int32


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """Of the R tokens of a response, under the teacher; log-probabilities in nats.

    log_probs: of the tokens themselves, [R]. top_ids, top_log_probs: the k likeliest entries, [R][k], likeliest first.
    texts: of each token, as the server decodes it ("": it does not say).
    """

    log_probs: list[float]
    top_ids: list[list[int]]
    top_log_probs: list[list[float]]
    texts: list[str]

    @property
    def mean(self) -> float:
        return sum(self.log_probs) / len(self.log_probs)


@dataclass(frozen=True, kw_only=True)
class Written:
    """A sampled response. ids: None if the server gives text alone. finished: it ended by itself."""

    ids: list[int] | None
    text: str
    finished: bool


def read_scores(answer: Mapping[str, Any], ids: Sequence[int], *, start: int, k: int, model: str) -> TokenScores:
    """Log-probabilities of the tokens from place `start` on, out of `prompt_logprobs`.

    Raises BadAnswer for a log-probability that is missing or no number (it may be asked for again), UserError for what
    another request would not change: no prompt_logprobs at all, a cut prompt, another model.
    """
    choice = _choice(answer, model)
    places = choice.get("prompt_logprobs")
    if places is None:
        raise UserError(
            "teacher: the server gives no prompt_logprobs, as vLLM does; use such a server, or set "
            "teacher.log_probs: false and a method or ranker that needs none"
        )
    if len(places) != len(ids):
        raise UserError(
            f"teacher: the server read {len(places)} tokens of a prompt of {len(ids)}: it cuts or extends prompts; "
            "raise its context (--max-model-len), and remove any truncation or BOS that it adds"
        )
    log_probs, texts, top_ids, top = [], [], [], []
    for token, place in zip(ids[start:], places[start:], strict=True):
        own = (place or {}).get(str(token))
        if own is None:
            raise BadAnswer(f"no log-probability of token {token} in its answer")
        log_probs.append(_number(own))
        texts.append(str(own.get("decoded_token") or ""))
        best = sorted(((_number(entry), _token(name)) for name, entry in place.items()), key=lambda one: -one[0])[:k]
        if len(best) < k:
            raise BadAnswer(f"{len(best)} log-probabilities per token where {k} were asked for")
        top_ids.append([name for _, name in best])
        top.append([value for value, _ in best])
    return TokenScores(log_probs=log_probs, top_ids=top_ids, top_log_probs=top, texts=texts)


def read_next(answer: Mapping[str, Any], *, model: str) -> dict[int, float]:
    """Log-probabilities of the next token by id, of the likeliest ones. Raises BadAnswer for none, or no number."""
    top = ((_choice(answer, model).get("logprobs") or {}).get("top_logprobs") or [None])[0]
    if not top:
        raise BadAnswer("no log-probabilities of the next token in its answer")
    found = {}
    for name, value in top.items():
        if not name.startswith("token_id:"):
            raise BadAnswer("it names tokens by text; its version of vLLM knows no return_tokens_as_token_ids")
        found[_token(name.removeprefix("token_id:"))] = _number({"logprob": value})
    return found


def read_written(answer: Mapping[str, Any], *, max_tokens: int, model: str) -> Written:
    """A sampled response. Raises BadAnswer for one that the server cut before the limit of length."""
    choice = _choice(answer, model)
    text, ids, reason = choice["text"], choice.get("token_ids"), choice.get("finish_reason")
    if not isinstance(text, str):
        raise BadAnswer("its answer is no text")
    if reason not in ("stop", "length"):
        raise BadAnswer(f"a response ended for the reason {reason!r}")
    if reason == "length" and ids is not None and len(ids) < max_tokens:
        raise BadAnswer(f"a response was cut after {len(ids)} of {max_tokens} tokens; raise the server's context")
    kept = None if ids is None else [_token(token) for token in ids]
    return Written(ids=kept, text=text.encode("utf-8", "replace").decode(), finished=reason == "stop")


def _choice(answer: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    by = answer.get("model")
    if by is not None and by != model:
        raise UserError(f"teacher: asked for {model!r}, the server answered as {by!r}; set teacher.served_model")
    found: Mapping[str, Any] = answer["choices"][0]
    return found


def _token(value: Any) -> int:
    if isinstance(value, bool | float) or not 0 <= (token := int(value)) < _MOST_TOKENS:
        raise BadAnswer(f"a token in its answer has the id {str(value)[:40]}")
    return token


def _number(entry: Mapping[str, Any]) -> float:
    value = entry.get("logprob")
    if not isinstance(value, int | float) or math.isnan(value) or value > 1e-3:
        raise BadAnswer(f"a log-probability in its answer is {value}")
    return max(float(value), -9999.0)  # JSON has no minus infinity, and a mean of it would be none
