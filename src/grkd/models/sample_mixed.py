"""Responses drawn while the student trains: from the student, or token by token from a mixture with the teacher."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedModel

from grkd.data.language import cut_vocabulary, forward_parameters, left_padded, unwrapped
from grkd.errors import UserError
from grkd.models import _decoding, graph_sampler
from grkd.models.generate import fastest_method
from grkd.models.seeded_draws import SeededDraws

_ROWS = 64  # generated at a time by transformers' `generate`, where the caller does not say


def sample_on_policy(
    student: nn.Module,
    teacher: nn.Module | None,
    prompts: Sequence[list[int]],
    *,
    teacher_mix: float,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    stop_ids: Sequence[int],
    pad_token_id: int,
    vocabulary: int,
    seeds: Sequence[int],
    batch_size: int | None = None,
) -> list[tuple[list[int], list[float]]]:
    """One response per prompt, in the order of the prompts: its token ids and the log-probability of each, in nats.

    p(y_t | x, y_<t) = teacher_mix * p_T(y_t | x, y_<t) + (1 - teacher_mix) * p_S(y_t | x, y_<t),
    softmaxes at `temperature` over the first `vocabulary` entries; then the nucleus of mass top_p, made to sum to one.
    The log-probabilities are those of p, from which the tokens were drawn, so that importance weights are exact.
    A response ends with its stop token where one was reached. The teacher runs with its own cache of keys and values;
    where teacher_mix is 0 it does not run and may be None, and on a GPU grkd.models.graph_sampler decodes. The student
    is taken out of its wrappers (DDP, peft). batch_size: responses at a time; None: what the memory holds, or 64.
    seeds: one per prompt, below 2^63. A response depends on its own seed and prompt alone, up to rounding in another
    batch size; equal prompts with equal seeds give equal responses. Modes of both models are left as they were, and
    nothing is drawn from torch's random state.
    Raises UserError for options out of range, ValueError for an empty prompt, a missing teacher, or another number of
    seeds than of prompts.
    Source: Gu et al., arXiv 2306.08543, Eq. 4 (teacher-mixed sampling).
    """
    _check(teacher_mix=teacher_mix, temperature=temperature, top_p=top_p)
    _decoding.check_call(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
    if teacher is None and teacher_mix:
        raise ValueError("a mixture with the teacher needs a teacher")
    model: Any = unwrapped(student)
    if not teacher_mix and prompts and fastest_method(model, len(prompts)) == "graph":
        draw = graph_sampler.Draw(temperature=temperature, top_p=top_p, vocabulary=vocabulary)
        try:
            return _by_graph(model, prompts, seeds, max_new_tokens, draw, stop_ids, batch_size)
        except graph_sampler.NotSupportedError:
            fastest_method(model, len(prompts))  # prints why
    config = _decoding.generation_config(max_new_tokens=max_new_tokens, stop_ids=stop_ids, pad_token_id=pad_token_id)
    mixed_in = teacher if teacher_mix else None
    options: dict[str, Any] = {
        "weight": teacher_mix,
        "temperature": temperature,
        "top_p": top_p,
        "vocabulary": vocabulary,
    }
    found: dict[int, tuple[list[int], list[float]]] = {}
    for part in _decoding.longest_first(prompts, _ROWS if batch_size is None else batch_size):
        batch = [prompts[index] for index in part]
        ids, mask = left_padded(batch, pad_token_id=pad_token_id, device=model.device)
        own = torch.tensor([seeds[index] for index in part], device=model.device)
        mixture = Mixture(mixed_in, mask, own, **options)
        new = _decoding.new_tokens(model, ids, mask, config, mixture, teacher=mixed_in)
        log_probs = mixture.log_probs(new.shape[-1]).tolist()
        for index, tokens, own_log_probs in zip(part, new.tolist(), log_probs, strict=True):
            end = _decoding.end_of(tokens, stop_ids)
            found[index] = tokens[:end], own_log_probs[:end]
    return [found[index] for index in range(len(prompts))]


def _by_graph(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    max_new_tokens: int,
    draw: graph_sampler.Draw,
    stop_ids: Sequence[int],
    batch_size: int | None,
) -> list[tuple[list[int], list[float]]]:
    """The student alone by grkd.models.graph_sampler; training has its memory back where it may need it."""
    lists = graph_sampler.sample(
        model,
        prompts,
        seeds=seeds,
        max_new_tokens=max_new_tokens,
        draw=draw,
        stop_ids=stop_ids,
        batch_size=batch_size,
    )
    found = {answer.index: (answer.response_ids, answer.log_probs) for answers in lists for answer in answers}
    graph_sampler.make_room_for_training(model)
    return [found[index] for index in range(len(prompts))]


class Mixture(SeededDraws):
    """Draws from a mixture of the student's and the teacher's distributions of the next token."""

    def __init__(
        self,
        teacher: nn.Module | None,
        attention_mask: Int[Tensor, "batch prompt"],
        seeds: Int[Tensor, " batch"],
        *,
        weight: float,
        temperature: float,
        top_p: float,
        vocabulary: int,
    ) -> None:
        super().__init__(seeds, temperature=1.0, top_p=top_p, vocabulary=vocabulary)
        self.teacher, self.weight, self.softness = teacher, weight, temperature
        self._mask = attention_mask
        self._cache: Any = None

    def scores_of(self, input_ids: Tensor, scores: Tensor) -> Float[Tensor, "batch vocabulary"]:
        log_probs = self._softened(scores)
        if self.teacher is not None:
            teacher = self._softened(self._teacher_scores(input_ids))
            share = math.log1p(-self.weight) if self.weight < 1 else -math.inf
            log_probs = torch.logaddexp(teacher + math.log(self.weight), log_probs + share)
        return log_probs

    def _softened(self, scores: Float[Tensor, "batch head"]) -> Float[Tensor, "batch vocabulary"]:
        return (cut_vocabulary(scores, self.vocabulary).float() / self.softness).log_softmax(-1)

    def _teacher_scores(self, input_ids: Tensor) -> Float[Tensor, "batch head"]:
        """The teacher's scores of the next token, from its cache and what is new since the last call."""
        assert self.teacher is not None
        known = forward_parameters(self.teacher)
        seen = 0 if self._cache is None else self._mask.shape[-1]
        self._mask = pad(self._mask, (0, input_ids.shape[-1] - self._mask.shape[-1]), value=1)
        inputs: dict[str, Any] = {
            "input_ids": input_ids[:, seen:],
            "attention_mask": self._mask,
            "past_key_values": self._cache,
            "use_cache": True,
        }
        if "position_ids" in known or "kwargs" in known:
            inputs["position_ids"] = (self._mask.cumsum(-1) - 1).clamp_min(0)[:, seen:]
        if "logits_to_keep" in known:
            inputs["logits_to_keep"] = 1
        output = self.teacher(**inputs)
        self._cache = output.past_key_values
        scores: Tensor = output.logits[:, -1]
        return scores


def _check(*, teacher_mix: float, temperature: float, top_p: float) -> None:
    if not 0 <= teacher_mix <= 1:
        raise UserError(f"teacher_mix must be in [0, 1], got {teacher_mix}")
    if not temperature > 0:
        raise UserError(f"temperature of on-policy responses must be above 0, got {temperature}")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p must be above 0 and at most 1, got {top_p}")
