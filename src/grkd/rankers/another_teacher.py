"""One more teacher beside the recipe's, in this process or behind a server, with its own vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from grkd.data.chat import stop_token_ids
from grkd.data.prompts import Example
from grkd.endpoint.client import Budget, Endpoint
from grkd.errors import UserError
from grkd.models.load import load_language_model, load_tokenizer, vocabulary_size
from grkd.objectives import option
from grkd.rankers._base import Columns, Given, Need, Prompts, Ranker, Resources, Responses, conversation
from grkd.rankers._teacher import verdicts_of
from grkd.served import ServedTeacher
from grkd.teacher.in_own_words import item_in_own_words
from grkd.teacher.local import LocalTeacher


@dataclass(kw_only=True)
class AnotherTeacher(Ranker):
    """ask log_prob: s(y) = mean log-probability of the response's text, nats per token, in its own tokens and template.
    ask choice: log of the mean probability that it prefers y, as the ranker `choice`.

    A served teacher's answers are stored as they come. No opinion on groups outside `only`.
    Raises UserError for a model or server that cannot be used.
    """

    needs: ClassVar[Need] = "device"

    model: str | None = option(None, help="folder or hub name of its weights, or of a served model's tokenizer")
    url: str | None = option(None, help="of its server, such as http://127.0.0.1:8000/v1", operational=True)
    served_model: str | None = option(None, help="its name there")
    ask: Literal["log_prob", "choice"] = option("log_prob", help="log-probabilities, or choices between responses")
    only: dict[str, Any] | None = option(None, help="column and value of the records that it is asked about; null: all")
    key_env: str | None = option(None, help="environment variable with the server's key", operational=True)
    concurrency: int = option(8, help="requests at a time", operational=True)
    max_requests: int | None = option(None, help="most requests, retries included; null: no limit", operational=True)

    _teacher: LocalTeacher | ServedTeacher | None = field(default=None, init=False, repr=False)
    _stop_ids: list[int] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.model is None:
            raise UserError("ranker another_teacher needs model: its folder, or that of a served model's tokenizer")
        if (self.url is None) != (self.served_model is None):
            raise UserError("ranker another_teacher: url and served_model belong together; give both or neither")
        if self.only is not None and len(self.only) != 1:
            raise UserError("ranker another_teacher: only is one column and its value, such as {subject: maths}")

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.only or ())

    def open(self, resources: Resources) -> None:
        assert self.model is not None
        tokenizer, config = load_tokenizer(self.model), None
        if self.url is None:
            dtype = torch.bfloat16 if resources.device.type == "cuda" else torch.float32
            model = load_language_model(self.model, dtype=dtype).to(resources.device).requires_grad_(False)
            config, size = model.generation_config, resources.batch_size
            self._teacher = LocalTeacher(model, tokenizer, vocabulary=vocabulary_size(tokenizer), batch_size=size)
        else:
            assert self.served_model is not None
            budget = Budget(max_requests=self.max_requests)
            client = Endpoint(self.url, self.served_model, role="teacher", key_env=self.key_env, budget=budget)
            served = ServedTeacher(client, tokenizer, folder=resources.folder, concurrency=self.concurrency)
            served.open()
            self._teacher = served
        self._stop_ids = stop_token_ids(tokenizer, config)

    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        asked = [at for at in range(len(prompts)) if self._is_asked(columns, at)]
        found: list[list[float | None]] = [[None] * len(texts) for texts in responses]
        part = {name: [values[at] for at in asked] for name, values in columns.items()}
        some = ([prompts[at] for at in asked], [responses[at] for at in asked], part)
        for at, values in zip(asked, self._scores(*some), strict=True):
            found[at] = list(values)
        return found

    def close(self) -> None:
        self._teacher = None

    def _is_asked(self, columns: Columns, at: int) -> bool:
        return all(columns[name][at] == value for name, value in (self.only or {}).items())

    def _scores(self, prompts: Prompts, responses: Responses, columns: Mapping[str, Any]) -> Given:
        if self._teacher is None:
            raise ValueError("open the ranker first")
        if self.ask == "choice":
            verdicts = verdicts_of(self, self._teacher, prompts, responses, columns)
            return [each.log_wins or [None] * len(texts) for each, texts in zip(verdicts, responses, strict=True)]
        finished = columns.get("finished", [[True] * len(texts) for texts in responses])
        items = [
            item_in_own_words(
                self._teacher.tokenizer,
                Example(id=f"{group}#{place}", messages=conversation(prompt), completion=text),
                text,
                stop_ids=self._stop_ids,
                finished=finished[group][place],
                context=self._teacher.context,
            )
            for group, (prompt, texts) in enumerate(zip(prompts, responses, strict=True))
            for place, text in enumerate(texts)
        ]
        means = iter(self._teacher.scored(items)[0])
        return [[next(means) for _ in texts] for texts in responses]


RANKER = AnotherTeacher
