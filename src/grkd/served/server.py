"""One model behind a server that gives log-probabilities (vLLM, and servers with the same fields)."""

from collections.abc import Mapping, Sequence
from typing import Any

from grkd.endpoint.client import Endpoint
from grkd.errors import UserError
from grkd.served.answers import TokenScores, Written, read_next, read_scores, read_written

_NEXT = 20  # likeliest next tokens that are asked for; what vLLM gives unless --max-logprobs says otherwise


class Server:
    """Requests of token ids. Nothing is kept here; errors are those of Endpoint.completion and grkd.served.answers.

    context: the most tokens of prompt and answer that it reads, None if it does not say.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self.model = endpoint, endpoint.model
        self.context: int | None = None

    def open(self) -> dict[str, Any]:
        """What the server says of the model: its files (root) and context, as far as it does.

        Raises UserError for a server that cannot be reached, or does not list the model.
        """
        listed = self.endpoint.listed()
        if listed is None:
            return {}
        card = next((each for each in listed if each["id"] == self.model), None)
        if card is None:
            names = ", ".join(str(each["id"]) for each in listed[:10])
            raise UserError(f"teacher: {self.endpoint.url} serves no {self.model!r}; it serves {names or 'nothing'}")
        if isinstance(card.get("max_model_len"), int):
            self.context = card["max_model_len"]
        return {"root": card.get("root"), "max_model_len": self.context}

    async def scores(self, prompt_ids: Sequence[int], response_ids: Sequence[int], *, k: int) -> TokenScores:
        """Of a response's tokens, their log-probabilities and those of the k likeliest entries (0: none)."""
        ids = [*prompt_ids, *response_ids]
        # Temperature 1: some servers divide logits by it before they take log-probabilities. One token must be written.
        body = {"prompt": ids, "max_tokens": 1, "prompt_logprobs": k, "temperature": 1.0}
        return await self.endpoint.completion(
            body, lambda answer: read_scores(answer, ids, start=len(prompt_ids), k=k, model=self.model)
        )

    async def next_log_probs(self, prompt_ids: Sequence[int], tokens: Sequence[int]) -> dict[int, float]:
        """Log-probabilities of these tokens as the next one. Those that are not among the likeliest are asked for."""
        body = {
            "prompt": list(prompt_ids),
            "max_tokens": 1,
            "logprobs": _NEXT,
            "temperature": 1.0,
            "return_tokens_as_token_ids": True,
        }
        found = await self.endpoint.completion(body, lambda answer: read_next(answer, model=self.model))
        return {
            token: found[token] if token in found else (await self.scores(prompt_ids, [token], k=0)).log_probs[0]
            for token in tokens
        }

    async def write(
        self,
        prompt_ids: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        stop_ids: Sequence[int],
    ) -> Written:
        """A sampled response. What the model's own generation config would change is set to no effect."""
        body: Mapping[str, Any] = {
            "prompt": list(prompt_ids),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop_token_ids": list(stop_ids),
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "skip_special_tokens": False,
            "return_token_ids": True,
        }
        return await self.endpoint.completion(
            body, lambda answer: read_written(answer, max_tokens=max_tokens, model=self.model)
        )
