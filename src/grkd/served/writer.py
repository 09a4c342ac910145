"""Responses that a served model writes, asked for once and kept."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grkd.endpoint.client import Endpoint, Messages, RequestFailed
from grkd.endpoint.journal import Journal
from grkd.errors import UserError
from grkd.files import digest
from grkd.served.answers import Written
from grkd.served.server import Server
from grkd.served.teacher import fetch_all


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One response that is wanted. prompt: token ids, or messages for a server that takes no ids. id: for errors."""

    id: str
    prompt: list[int] | Messages
    seed: int


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How responses are sampled; stop_ids: of requests with token ids."""

    max_tokens: int
    temperature: float
    top_p: float
    stop_ids: tuple[int, ...] = ()


class ServedWriter:
    """Asks for responses, `concurrency` at a time; every one is a line of folder/answers.jsonl as soon as it is there.

    A response that was written before, for the same model, prompt, drawing and seed, is not asked for again.
    vocabulary: tokens of the tokenizer here.
    """

    def __init__(self, endpoint: Endpoint, *, folder: Path, concurrency: int, vocabulary: int) -> None:
        self.server, self.concurrency, self.vocabulary = Server(endpoint), concurrency, vocabulary
        self._journal = Journal(folder / "answers.jsonl")

    def __call__(self, asked: Sequence[Asked], drawing: Drawing) -> list[Written]:
        """A response to each, in order. Raises UserError unless all are answered, by tokens of the tokenizer here."""
        keys = [
            digest(["write", self.server.model, each.prompt, each.seed, list(vars(drawing).values())]) for each in asked
        ]
        missing = {key: each for key, each in zip(keys, asked, strict=True) if key not in self._journal}
        calls = {key: partial(self._write, key, each, drawing) for key, each in missing.items()}
        fetch_all(self.server.endpoint, calls, concurrency=self.concurrency, description="respond (served teacher)")
        found = [self._journal[key] for key in keys]
        return [Written(ids=each["ids"], text=each["text"], finished=each["finished"]) for each in found]

    async def _write(self, key: str, asked: Asked, drawing: Drawing) -> None:
        try:
            written = await self._sampled(asked, drawing)
        except RequestFailed as failure:
            raise RequestFailed(f"{asked.id}: {failure}", refused=failure.refused) from None
        unknown = next((token for token in written.ids or () if token >= self.vocabulary), None)
        if unknown is not None:
            raise UserError(
                f"teacher: its response to {asked.id} has the token {unknown}, and the tokenizer here has "
                f"{self.vocabulary}: another vocabulary; set teacher.tokenizer to that of the served model"
            )
        self._journal.add(key, {"id": asked.id, **vars(written)})

    async def _sampled(self, asked: Asked, drawing: Drawing) -> Written:
        prompt = asked.prompt
        common: dict[str, Any] = {"temperature": drawing.temperature, "top_p": drawing.top_p, "seed": asked.seed}
        if prompt and isinstance(prompt[0], int):
            ids = [token for token in prompt if isinstance(token, int)]
            return await self.server.write(ids, max_tokens=drawing.max_tokens, stop_ids=drawing.stop_ids, **common)
        messages = [message for message in prompt if isinstance(message, dict)]
        reply = await self.server.endpoint.complete(messages, max_tokens=drawing.max_tokens, **common)
        return Written(ids=None, text=reply.text, finished=reply.finish_reason == "stop")


def seed_of(*parts: object) -> int:
    """A seed from whatever names a draw, below 2^31: the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1
