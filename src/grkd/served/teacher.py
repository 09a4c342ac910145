"""A served teacher as the score stage and rankers ask it: log-probabilities of responses, and its choice."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grkd.data.chat import stop_token_ids
from grkd.data.language import Item
from grkd.endpoint.client import Endpoint, RequestFailed
from grkd.endpoint.journal import Journal
from grkd.endpoint.several import fetch
from grkd.errors import UserError
from grkd.files import digest, read_json, write_json
from grkd.served.answers import TokenScores
from grkd.served.same_model import check_same_model, check_vocabulary
from grkd.served.server import Server
from grkd.teacher.annotator import Letters, Verdict, comparisons_of, verdicts
from grkd.teacher.in_own_words import means_of_groups

LocalMeans = Callable[[Sequence[Item]], list[float]]  # mean log-probabilities of the same model on this machine
Record = dict[str, Any]  # a line of a journal
FIRST = 8  # responses that are compared with it


class ServedTeacher:
    """A model behind a server, with its tokenizer on this machine. (It is a grkd.rankers.Teacher.)

    Every answer is a line of a journal in `folder` as soon as it is there, and is never asked for again (None: it is
    kept in memory). top_k: likeliest entries per token that `scored` keeps for token-level methods.
    local: gives the same model's own mean log-probabilities; the first responses are compared with it, and a server
    that differs by more than tolerance_nats per token is refused.
    reads_text: its vocabulary is not the student's, so that it scores the text of responses in its own tokens.
    digest: of the model's name and files, as far as the server says.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        tokenizer: Any,
        *,
        folder: Path | None,
        concurrency: int = 8,
        top_k: int = 20,
        local: LocalMeans | None = None,
        tolerance_nats: float = 0.1,
        reads_text: bool = False,
    ) -> None:
        self.reads_text = reads_text
        self.server, self.tokenizer = Server(endpoint), tokenizer
        self.concurrency, self.top_k = concurrency, top_k
        self.local, self.tolerance_nats = local, tolerance_nats
        self.folder = folder
        self._journal = Journal(None if folder is None else folder / "answers.jsonl")
        self._checked = False
        self.digest = ""

    def open(self) -> None:
        """Ask the server what it is. Raises UserError if it is not there, or another model than for earlier answers."""
        facts = {"served_model": self.server.model, **self.server.open()}
        self.digest = digest(["served", facts["served_model"], facts.get("root")])
        if self.folder is None:
            return
        noted = self.folder / "server.json"
        before = read_json(noted) if noted.is_file() else facts
        if before.get("root") not in (None, facts.get("root")) and facts.get("root") is not None:
            raise UserError(
                f"teacher: {self.server.model!r} at {self.server.endpoint.url} is now {facts['root']}, earlier answers "
                f"are of {before['root']}; serve that model, or delete {self.folder} to repeat all requests"
            )
        write_json(noted, {**before, **facts})

    @property
    def context(self) -> int | None:
        return self.server.context

    def mean_log_probs(
        self, prompts: Sequence[Any], responses: Sequence[Sequence[str]], columns: Mapping[str, Sequence[Any]]
    ) -> list[list[float]]:
        """Mean token log-probability of each response, nats per token, from columns prompt_ids and response_ids.

        A teacher that reads text takes prompts and responses instead.
        Raises UserError without the ids, for text over the server's context, and as `scored`.
        """
        stop_ids = stop_token_ids(self.tokenizer) if self.reads_text else []
        return means_of_groups(self, prompts, responses, columns, stop_ids=stop_ids)

    def choices(
        self, prompts: Sequence[Any], responses: Sequence[Sequence[str]], columns: Mapping[str, Sequence[Any]]
    ) -> list[Verdict]:
        """Its choice between the responses of each group: see grkd.teacher.annotator. Column group: ids for errors."""
        return verdicts(
            self.tokenizer,
            comparisons_of(prompts, responses, columns),
            stop_ids=stop_token_ids(self.tokenizer),
            context=self.context,
            preferences=self._preferences,
        )

    def scored(
        self, items: Sequence[Item], *, keep: Collection[str] = (), store: Path | None = None
    ) -> tuple[list[float], dict[str, tuple[Tensor, Tensor]]]:
        """Mean log-probability of each response, and of the items in `keep` the top k per token, by id.

        Of each: ids int32 [response, k] and log-probabilities float32 [response, k]. store: the journal of those
        answers, which are large; the caller deletes it when it has them. Items whose answers have been kept are not
        asked again. Raises UserError for a response over the server's context, and if answers do not come.
        """
        for item in items:
            self._check_length(item)
        large, unasked = Journal(store), items
        found: dict[str, Record] = {}
        if items and self.local is not None and not self._checked:
            # The first few alone, until they were compared with the model here: no more is asked of another one.
            first, unasked = items[:FIRST], items[FIRST:]
            found = self._answers(first, keep, large)
            means = [float(found[item.id]["mean"]) for item in first]
            check_same_model(first, means, self.local, tolerance_nats=self.tolerance_nats)
            self._checked = True
        found |= self._answers(unasked, keep, large)
        means = [float(found[item.id]["mean"]) for item in items]
        rows = {
            name: (torch.tensor(record["ids"], dtype=torch.int32), torch.tensor(record["log_probs"]))
            for name, record in found.items()
            if name in keep
        }
        return means, rows

    def _answers(self, items: Sequence[Item], keep: Collection[str], large: Journal) -> dict[str, Record]:
        """The server's answer on each item, by id; it is asked for what is in no journal. large: that of `keep`."""
        places: dict[str, tuple[Journal, str]] = {}
        calls = {}
        for item in items:
            k = self.top_k if item.id in keep else 0
            journal, key = large if k else self._journal, _key(self.server.model, item, k)
            places[item.id] = journal, key
            if key not in journal:
                calls[key] = partial(self._score, key, item, k, journal)
        self._fetch(calls, "score (served teacher)")
        return {name: journal[key] for name, (journal, key) in places.items()}

    async def _score(self, key: str, item: Item, k: int, journal: Journal) -> None:
        try:
            scores: TokenScores = await self.server.scores(item.prompt_ids, item.response_ids, k=k)
        except RequestFailed as failure:
            raise RequestFailed(f"{item.id}: {failure}", refused=failure.refused) from None
        check_vocabulary(self.tokenizer, item, scores.texts)
        record: dict[str, Any] = {"id": item.id, "mean": scores.mean}
        if k:
            rounded = [[round(value, 5) for value in each] for each in scores.top_log_probs]
            record |= {"ids": scores.top_ids, "log_probs": rounded}
        journal.add(key, record)

    def _preferences(self, prompts: list[list[int]], letters: Letters) -> list[float]:
        """The probability of the first letter against the second, after each prompt."""
        tokens = [*letters.first, *letters.second]
        keys = [digest(["choice", self.server.model, prompt, tokens]) for prompt in prompts]
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._journal}
        self._fetch(
            {key: partial(self._ask_next, key, ids, tokens) for key, ids in missing.items()}, "choice (served teacher)"
        )
        rows = torch.tensor([self._journal[key]["log_probs"] for key in keys], dtype=torch.float64)
        cut = len(letters.first)
        margins = rows[:, :cut].logsumexp(-1) - rows[:, cut:].logsumexp(-1)
        return list(margins.sigmoid().tolist())

    async def _ask_next(self, key: str, prompt: list[int], tokens: list[int]) -> None:
        found = await self.server.next_log_probs(prompt, tokens)
        self._journal.add(key, {"log_probs": [found[token] for token in tokens]})

    def _fetch(self, calls: Mapping[str, Callable[[], Awaitable[None]]], description: str) -> None:
        fetch_all(self.server.endpoint, calls, concurrency=self.concurrency, description=description)

    def _check_length(self, item: Item) -> None:
        length = len(item.prompt_ids) + len(item.response_ids) + 1  # the server writes one token
        if self.context is not None and length > self.context:
            raise UserError(
                f"teacher: prompt and response {item.id} take {length} of its tokens, the server's context is "
                f"{self.context}; lower data.max_prompt_tokens or responses.max_new_tokens, or raise --max-model-len"
            )


def fetch_all(
    endpoint: Endpoint, calls: Mapping[str, Callable[[], Awaitable[None]]], *, concurrency: int, description: str
) -> None:
    """Make calls, if any, that keep their answers themselves. Raises UserError unless all are answered."""
    if not calls:
        return
    failures, stopped = fetch(endpoint, calls, concurrency=concurrency, description=description, unit="answers")
    if stopped is not None:
        raise UserError(f"teacher: {stopped}; raise teacher.max_requests and repeat the command: answers are kept")
    if failures:
        reason = str(next(iter(failures.values())))[:200]
        raise UserError(
            f"teacher: {len(failures)} of {len(calls)} requests to {endpoint.url} got no usable answer ({reason}); "
            "the others are kept, the same command resumes"
        )


def _key(model: str, item: Item, k: int) -> str:
    return digest(["score", model, item.prompt_ids, item.response_ids, k])
