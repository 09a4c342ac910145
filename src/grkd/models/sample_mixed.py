"""Responses drawn while the student trains: from the student, or token by token from a mixture with the teacher."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from grkd.data.language import cut_vocabulary, forward_parameters, unwrapped
from grkd.errors import UserError
from grkd.files import digest
from grkd.models.load import quiet


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
    seed: int,
    batch_size: int,
) -> list[tuple[list[int], list[float]]]:
    """One response a prompt, in the order of the prompts: its token ids and the log-probability of each, in nats.

    p(y_t | x, y_<t) = teacher_mix * p_T(y_t | x, y_<t) + (1 - teacher_mix) * p_S(y_t | x, y_<t),
    softmaxes at `temperature` over the first `vocabulary` entries; then the nucleus of mass top_p, made to sum to one.
    The log-probabilities are those of p, from which the tokens were drawn, so that importance weights are exact.
    A response ends with its stop token where one was reached. The teacher runs with its own cache of keys and values;
    where teacher_mix is 0 it does not run and may be None. The student is taken out of its wrappers (DDP, peft).
    The text depends on the seed, the prompts and batch_size alone; modes of both models and the random state of the CPU
    and the student's device are left as they were.
    Raises UserError for options out of range, ValueError for an empty prompt or a missing teacher.
    Source: Gu et al., arXiv 2306.08543, Eq. 4 (teacher-mixed sampling).
    """
    _check(teacher_mix=teacher_mix, temperature=temperature, top_p=top_p)
    if max_new_tokens < 1 or batch_size < 1:
        raise UserError(f"max_new_tokens and batch_size must be 1 or more, got {max_new_tokens} and {batch_size}")
    if not all(prompts):
        raise ValueError("a prompt must have at least one token")
    if teacher is None and teacher_mix:
        raise ValueError("a mixture with the teacher needs a teacher")
    model: Any = unwrapped(student)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=True,
        top_k=0,
        eos_token_id=list(stop_ids) or None,
        pad_token_id=pad_token_id,
        use_cache=True,  # a model that trains with gradient checkpointing has it off in its config
    )
    mixed_in = teacher if teacher_mix else None
    options = {"weight": teacher_mix, "temperature": temperature, "top_p": top_p, "vocabulary": vocabulary}
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    found: dict[int, tuple[list[int], list[float]]] = {}
    for number, start in enumerate(range(0, len(order), batch_size)):
        chosen = order[start : start + batch_size]
        batch = [prompts[index] for index in chosen]
        with _sampling(model, mixed_in, config, seed=int(digest([seed, number, batch])[:15], 16)):
            rows = _drawn(model, mixed_in, batch, config, options)
        found |= {index: _cut(*row, stop_ids) for index, row in zip(chosen, rows, strict=True)}
    return [found[index] for index in range(len(prompts))]


class Mixture(LogitsProcessor):
    """Turns the student's scores of the next token into log-probabilities of the mixture, and notes what was drawn."""

    def __init__(
        self,
        teacher: nn.Module | None,
        attention_mask: Int[Tensor, "batch prompt"],
        *,
        weight: float,
        temperature: float,
        top_p: float,
        vocabulary: int,
    ) -> None:
        self.teacher, self.weight, self.vocabulary = teacher, weight, vocabulary
        self.temperature, self.top_p = temperature, top_p
        self._mask = attention_mask
        self._cache: Any = None
        self._log_probs: Tensor | None = None  # of the token that is drawn next
        self._column = 0  # where it will stand
        self._noted: dict[int, Tensor] = {}

    def __call__(
        self, input_ids: Int[Tensor, "batch length"], scores: Float[Tensor, "batch head"]
    ) -> Float[Tensor, "batch head"]:
        self._note(input_ids)
        log_probs = self._softened(scores)
        if self.teacher is not None:
            teacher = self._softened(self._teacher_scores(input_ids))
            share = math.log1p(-self.weight) if self.weight < 1 else -math.inf
            log_probs = torch.logaddexp(teacher + math.log(self.weight), log_probs + share)
        if self.top_p < 1:
            log_probs = _nucleus(log_probs, self.top_p)
        self._log_probs, self._column = log_probs, input_ids.shape[-1]
        return pad(log_probs.to(scores.dtype), (0, scores.shape[-1] - self.vocabulary), value=-torch.inf)

    def noted(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch drawn"]:
        """Log-probabilities of all tokens that were drawn; `tokens` are prompts and responses, as generated."""
        self._note(tokens)
        # generate() may have run some steps further than what it returns.
        return torch.stack([self._noted[column] for column in sorted(self._noted) if column < tokens.shape[-1]], -1)

    def _note(self, tokens: Tensor) -> None:
        if self._log_probs is not None and self._column < tokens.shape[-1]:
            drawn = tokens[:, self._column].clamp_max(self.vocabulary - 1)  # a finished row's padding may be beyond it
            self._noted[self._column] = self._log_probs.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)

    def _softened(self, scores: Float[Tensor, "batch head"]) -> Float[Tensor, "batch vocabulary"]:
        return (cut_vocabulary(scores, self.vocabulary).float() / self.temperature).log_softmax(-1)

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


@torch.no_grad()
def _drawn(
    model: PreTrainedModel,
    teacher: nn.Module | None,
    prompts: list[list[int]],
    config: GenerationConfig,
    options: dict[str, Any],
) -> list[tuple[list[int], list[float]]]:
    """New tokens of each prompt and their log-probabilities, with what stands behind the stop token."""
    longest = max(map(len, prompts))
    input_ids = torch.full((len(prompts), longest), config.pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask[row, longest - len(prompt) :] = 1
    attention_mask = attention_mask.to(model.device)
    mixture = Mixture(teacher, attention_mask, **options)
    tokens: Tensor = model.generate(
        input_ids.to(model.device),
        attention_mask=attention_mask,
        generation_config=config,
        logits_processor=[mixture],
    )
    log_probs = mixture.noted(tokens)
    return list(zip(tokens[:, longest:].tolist(), log_probs.tolist(), strict=True))


def _nucleus(log_probs: Float[Tensor, "batch vocabulary"], top_p: float) -> Float[Tensor, "batch vocabulary"]:
    """The most likely tokens up to the one with which their mass reaches top_p; the others at -inf."""
    ordered, index = log_probs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    kept = torch.zeros_like(index, dtype=torch.bool).scatter(-1, index, before < top_p)
    return log_probs.masked_fill(~kept, -torch.inf).log_softmax(-1)


@contextmanager
def _sampling(model: Any, teacher: nn.Module | None, config: GenerationConfig, *, seed: int) -> Iterator[None]:
    """Evaluation mode of both models, this generation config alone, and a random state of its own."""
    modes = [(part, part.training) for whole in (model, teacher) if whole is not None for part in whole.modules()]
    own_config, device = model.generation_config, model.device
    # Fields that are not set here would otherwise be taken from the model's (a top_k, a repetition penalty).
    model.generation_config = config
    for part, _ in modes:
        part.training = False
    kind, devices = ("cuda", []) if device.type == "cpu" else (device.type, [device])
    try:
        with torch.random.fork_rng(devices=devices, device_type=kind), quiet():
            torch.manual_seed(seed)
            yield
    finally:
        model.generation_config = own_config
        for part, training in modes:
            part.training = training


def _cut(tokens: list[int], log_probs: list[float], stop_ids: Sequence[int]) -> tuple[list[int], list[float]]:
    """Both up to the first stop token."""
    end = next((place + 1 for place, token in enumerate(tokens) if token in stop_ids), len(tokens))
    return tokens[:end], log_probs[:end]
