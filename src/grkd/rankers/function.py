"""Any Python function as a ranker, with the signature of TRL's reward functions."""

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from grkd.endpoint.loop import wait_for
from grkd.errors import UserError
from grkd.files import file_digest
from grkd.imports import imported_callable, source_of
from grkd.objectives import option
from grkd.rankers._base import PER_RESPONSE, Columns, Given, Prompts, Ranker, Resources, Responses, Value


@dataclass(kw_only=True)
class Function(Ranker):
    """`f(prompts, completions, **columns) -> list[float | None]`, called once with the responses of all groups.

    Lists have one entry per response: a prompt and the record's columns are repeated; `finished` says whether the
    response ended by itself. Where prompts are messages, a
    completion is [{"role": "assistant", "content": text}]; else it is text. completion_ids (token ids) are passed where
    they are known, and log_metric(name, value), whose means are reported. A function that takes no **columns gets those
    that it names. It may be a coroutine. None: no opinion.
    Raises UserError for what cannot be imported, raises, or gives another number of scores than responses.
    Source: the signature is that of trl.GRPOTrainer's reward_funcs.
    """

    function: Any = option(help="package.module:function, looked for in the working directory too")

    _called: Callable[..., Any] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.function) and not (isinstance(self.function, str) and ":" in self.function):
            raise UserError(f"ranker function: function must be package.module:function, got {self.function!r}")

    def check(self) -> None:
        self._function()

    def open(self, resources: Resources) -> None:
        self._called = self._function()

    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        if self._called is None:
            raise ValueError("open the ranker first")
        sizes = [len(texts) for texts in responses]
        chat = [not isinstance(prompt, str) for prompt in prompts]
        given: dict[str, Any] = {
            "prompts": _repeated(prompts, sizes),
            "completions": [
                [{"role": "assistant", "content": text}] if as_messages else text
                for texts, as_messages in zip(responses, chat, strict=True)
                for text in texts
            ],
        }
        reserved = ("prompt_ids", "prompts", "completions", "prompt", "completion", "completion_ids")
        for name, values in columns.items():
            if name.partition(":")[0] in PER_RESPONSE and all(isinstance(own, list | tuple) for own in values):
                given[name] = [value for group in values for value in group]
            elif name not in reserved:
                given[name] = _repeated(values, sizes)
        if "response_ids" in given:
            given["completion_ids"] = given.pop("response_ids")
        extras = {
            "trainer_state": None,
            "log_extra": lambda column, values: None,
            "log_metric": lambda name, value: self.tally(name, float(value), over=1),
        }
        found = self._result({**extras, **given}, sum(sizes))
        ends = [sum(sizes[: at + 1]) for at in range(len(sizes))]
        return [found[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    def identity(self) -> dict[str, Any]:
        """Its import path, and a digest of the file that it is in; of a partial its arguments, too.

        An argument that is no number, text, list or mapping counts by its class: its text would differ in each process.
        """
        called = self._function()
        file = source_of(called)
        named = called.func if isinstance(called, partial) else called
        shown = (
            self.function if isinstance(self.function, str) else getattr(named, "__qualname__", type(named).__name__)
        )
        found = {"name": self.name, "function": shown, "file": None if file is None else file_digest(file)}
        if isinstance(called, partial):
            given = [called.args, called.keywords]
            found["arguments"] = json.dumps(given, sort_keys=True, default=lambda one: type(one).__qualname__)
        return found

    def _function(self) -> Callable[..., Any]:
        called: Callable[..., Any] = self.function if callable(self.function) else imported_callable(self.function)
        return called

    def _result(self, given: dict[str, Any], wanted: int) -> list[Value]:
        assert self._called is not None
        shown = self.function if isinstance(self.function, str) else getattr(self.function, "__name__", "function")
        named = inspect.signature(self._called).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in named.values()):
            given = {name: value for name, value in given.items() if name in named}
        try:
            result = self._called(**given)
            result = wait_for(result) if inspect.iscoroutine(result) else result
            found = [None if score is None else float(score) for score in result]
        except UserError:
            raise
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"ranker function: {shown} failed on {wanted} responses ({text})") from error
        if len(found) != wanted:
            raise UserError(f"ranker function: {shown} gave {len(found)} scores for {wanted} responses; give one each")
        return found


def _repeated(values: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    return [value for value, size in zip(values, sizes, strict=True) for _ in range(size)]


RANKER = Function
