"""Rows that are decoded together over a static cache: their state on the device, one step of all, its CUDA graph."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from grkd.kernels import draw_tokens
from grkd.models._decoding_check import relative_difference, tolerance
from grkd.models.decoder_step import Cache, DecoderStep
from grkd.models.evaluation_mode import evaluation_mode

_POLL_STEPS = 16  # decode steps between two looks at which rows have finished
_CHECKED = 8  # prompts after which the logits are compared with the model's own


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How tokens are drawn, see grkd.kernels.draw_tokens; a graph is recorded for one such setting."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    vocabulary: int | None = None


@dataclass(frozen=True)
class Response:
    """A response to prompts[index]; its ids end with the stop token where one was reached (`finished`).

    log_probs: of its tokens, nats; empty from transformers' `generate`.
    """

    index: int
    response_ids: list[int]
    finished: bool
    log_probs: list[float] = field(default_factory=list, compare=False)


class NotSupportedError(Exception):
    """The model cannot be decoded by DecoderStep; the text says why. Callers fall back to `generate`."""


class DecodingRows:
    """The buffers of one shape (rows, slots), the decode step that works on them, and on CUDA its graph."""

    def __init__(self, step: DecoderStep, *, rows: int, slots: int) -> None:
        self.step, self.rows = step, rows
        self.cache: Cache = step.cache(rows, slots)

        def numbers(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=step.device)

        # Per row: the token that is fed next, its slot, the tokens drawn so far, and whether the row has finished.
        self.tokens, self.places, self.drawn, self.seeds = (numbers(rows) for _ in range(4))
        self.done = torch.ones(rows, dtype=torch.bool, device=step.device)
        # The last column takes what finished rows write.
        self.ids = numbers(rows, slots + 1)
        self.log_probs = numbers(rows, slots + 1, dtype=torch.float32)
        self.stops = numbers(step.head_size, dtype=torch.bool)
        self.limit = numbers(1)
        self._graph: Any = None
        self._recorded: object = None
        self._call: object = None
        self._checked = False

    @property
    def bytes(self) -> int:
        """Memory of the rows and of copied parameters."""
        return self.rows * self.step.row_bytes(self.cache.slots) + self.step.copied_bytes

    def answers(
        self,
        model: PreTrainedModel,
        prompts: Sequence[list[int]],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        draw: Draw,
        stop_ids: Sequence[int],
    ) -> Iterator[list[Response]]:
        """See grkd.models.graph_sampler.sample."""
        call = self._call = object()
        with self._computing(model):
            self._begin(max_new_tokens, stop_ids)
            self._record(draw)
        waiting = deque(sorted(range(len(prompts)), key=lambda index: -len(prompts[index])))
        held: dict[int, int] = {}  # row -> number of the prompt that it answers
        while waiting or held:
            if self._call is not call:
                raise RuntimeError("another call began to sample from this model before all responses were taken")
            with self._computing(model):
                free = [row for row in range(self.rows) if row not in held]
                # A prefill costs as much as several decode steps: not for a few rows while others are at work.
                if waiting and (not held or len(free) >= max(1, self.rows // 8)):
                    taken = {row: waiting.popleft() for row in free[: len(waiting)]}
                    self._fill({row: (prompts[index], seeds[index]) for row, index in taken.items()})
                    held |= taken
                    self._check(model, [prompts[index] for index in taken.values()], list(taken))
                for _ in range(min(_POLL_STEPS, max_new_tokens)):
                    self._advance(draw)
                found = self._finished(held)
            if found:
                yield found

    def _begin(self, max_new_tokens: int, stop_ids: Sequence[int]) -> None:
        self.step.refresh()
        self.done.fill_(True)
        self.places.zero_()
        self.limit.fill_(max_new_tokens)
        self.stops.zero_()
        known = [token for token in stop_ids if token < len(self.stops)]
        self.stops[torch.tensor(known, dtype=torch.int64, device=self.step.device)] = True

    def _fill(self, taken: dict[int, tuple[list[int], int]]) -> None:
        """Give rows a prompt and a seed: all tokens but the last go into the cache, the last one is fed first."""
        device, chosen = self.step.device, [prompt for prompt, _ in taken.values()]
        self.step.prefill(chosen, list(taken), self.cache)
        rows = torch.tensor(list(taken), device=device)
        last = torch.tensor([[prompt[-1], len(prompt) - 1] for prompt in chosen], device=device)
        self.tokens[rows], self.places[rows] = last[:, 0], last[:, 1]
        self.seeds[rows] = torch.tensor([seed for _, seed in taken.values()], device=device)
        self.drawn[rows] = 0
        self.done[rows] = False

    def _check(self, model: PreTrainedModel, prompts: Sequence[list[int]], rows: Sequence[int]) -> None:
        """Once: the step's logits after some of the prompts are the model's own, up to the rounding of its dtype."""
        if self._checked:
            return
        step, some = self.step, range(0, len(rows), -(-len(rows) // _CHECKED))
        logits = step.logits(self.tokens, self.places, self.cache)[[rows[number] for number in some]]
        asked = [prompts[number] for number in some]
        found = relative_difference(logits, model, asked, dtype=step.dtype, softcap=step.softcap)
        if not found <= tolerance(step.dtype):
            raise NotSupportedError(
                f"the static decode step does not give this {step.config.model_type} model's logits (they differ by "
                f"{100 * found:.3g} % of their size in {str(step.dtype).removeprefix('torch.')})"
            )
        self._checked = True

    def _advance(self, draw: Draw) -> None:
        if self._graph is None:
            self._one_token(draw)
        else:
            self._graph.replay()

    def _one_token(self, draw: Draw) -> None:
        """Draw the next token of every row that has not finished. No synchronisation, fixed shapes."""
        tokens, log_probs = draw_tokens(
            self.step.logits(self.tokens, self.places, self.cache),
            self.seeds,
            self.drawn,
            temperature=draw.temperature,
            top_p=draw.top_p,
            top_k=draw.top_k,
            softcap=self.step.softcap,
            vocabulary=draw.vocabulary,
        )
        active = ~self.done
        column = torch.where(active, self.drawn, self.cache.slots)[:, None]
        self.ids.scatter_(1, column, tokens[:, None])
        self.log_probs.scatter_(1, column, log_probs[:, None])
        self.drawn += active
        self.places += active
        self.tokens.copy_(torch.where(active, tokens, self.tokens))
        self.done |= self.stops[tokens] | (self.drawn >= self.limit)

    def _finished(self, held: dict[int, int]) -> list[Response]:
        """Answers of the rows that have finished, which `held` then no longer names."""
        done = self.done.tolist()
        rows = [row for row in held if done[row]]
        if not rows:
            return []
        at = torch.tensor(rows, device=self.step.device)
        lengths = self.drawn[at].tolist()
        ids, log_probs = (part[at, : max(lengths)].tolist() for part in (self.ids, self.log_probs))
        stopped = self.stops[self.tokens[at]].tolist()
        answers = [
            Response(held.pop(row), ids[n][:length], stopped[n], log_probs[n][:length])
            for n, (row, length) in enumerate(zip(rows, lengths, strict=True))
        ]
        return sorted(answers, key=lambda answer: answer.index)

    def _record(self, draw: Draw) -> None:
        """Record the step as a CUDA graph, unless the recorded one still holds; all rows are finished meanwhile."""
        if self.step.device.type != "cuda":
            return
        wanted = (draw, self.step.addresses())
        if self._graph is not None and self._recorded == wanted:
            return
        self._graph = None
        current, side = torch.cuda.current_stream(self.step.device), torch.cuda.Stream(self.step.device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(2):  # kernels are compiled and libraries take their workspaces
                self._one_token(draw)
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._one_token(draw)
        self._graph, self._recorded = graph, wanted

    @contextmanager
    def _computing(self, model: PreTrainedModel) -> Iterator[None]:
        """Evaluation mode, no gradients, and no autocast: the step's own dtype holds."""
        autocast = torch.autocast(self.step.device.type, enabled=False)
        with evaluation_mode(self.step.parts, model), torch.no_grad(), autocast:
            yield
