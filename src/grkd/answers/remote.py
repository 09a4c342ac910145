"""A model behind an OpenAI-compatible endpoint that answers several requests at a time."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from grkd.answers.question import Sampling, Text
from grkd.endpoint.calls import Calls
from grkd.endpoint.client import Endpoint, Messages, RequestFailed
from grkd.errors import UserError


class RemoteModel:
    """A model behind an OpenAI-compatible endpoint, `concurrency` requests at a time.

    Its key comes from the environment (see Endpoint). Raises UserError for an endpoint that cannot work.
    """

    def __init__(self, endpoint: Endpoint, *, concurrency: int = 4) -> None:
        self.endpoint, self.concurrency = endpoint, concurrency

    @property
    def identity(self) -> dict[str, Any]:
        return {"url": self.endpoint.url, "model": self.endpoint.model}

    def answers(
        self, conversations: Sequence[Messages], *, stored: set[int], sampling: Sampling, temperature: float
    ) -> Iterator[tuple[int, Text]]:
        """As LocalModel's. Raises UserError if a request gets no answer, after those on their way came in."""
        calls = {
            index: partial(self._one, messages, sampling, temperature)
            for index, messages in enumerate(conversations)
            if index not in stored
        }
        failed: RequestFailed | None = None
        with Calls(self.endpoint, calls, concurrency=self.concurrency) as running:
            for index, done in running:
                try:
                    yield index, done.result()
                except RequestFailed as failure:
                    failed = failed or failure
                    self.endpoint.connection.stop()
                    running.drop()
        if failed is not None:
            raise UserError(
                f"model: {self.endpoint.url} gives no answer: {failed}; answers so far are kept, "
                "the same command resumes"
            )

    async def _one(self, messages: Messages, sampling: Sampling, temperature: float) -> Text:
        # Without top_p a server takes that of the model's generation config.
        drawn: dict[str, Any] = {"seed": sampling.seed, "top_p": sampling.top_p} if temperature > 0 else {}
        try:
            reply = await self.endpoint.complete(
                messages, max_tokens=sampling.max_new_tokens, temperature=temperature, **drawn
            )
        except RequestFailed as failure:
            if not failure.refused or "context" not in str(failure):
                raise
            return Text(text="", finished=False, prompt_tokens=0, tokens=0, seconds=0.0, too_long=True)
        return Text(
            text=reply.text.strip(),
            finished=reply.finish_reason == "stop",
            prompt_tokens=reply.prompt_tokens,
            tokens=reply.completion_tokens,
            seconds=reply.seconds,
        )
