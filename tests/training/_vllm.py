"""An engine that holds weights of its own, as vLLM does, and what else is used of the package."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

KNOWN = {
    "temperature",
    "seed",
    "max_tokens",
    "stop_token_ids",
    "ignore_eos",
    "allowed_token_ids",
    "logprobs",
    "detokenize",
}


class Parameters(SimpleNamespace):
    def __init__(self, **options: Any) -> None:
        assert set(options) <= KNOWN
        super().__init__(**options)


class Engine:
    """What vLLM's LLM does of this: a model made from a config, weights that are copied in, cached prompts."""

    made: "ClassVar[list[Engine]]"

    def __init__(self, *, model: str, load_format: str, dtype: str, max_model_len: int | None, **options: Any) -> None:
        assert load_format == "dummy"
        several = torch.distributed.is_initialized()
        assert options.pop("distributed_executor_backend") == ("external_launcher" if several else None)
        assert set(options) == {"skip_tokenizer_init", "gpu_memory_utilization", "logprobs_mode", "enforce_eager"}
        if several:  # engines agree on the size of their caches
            torch.distributed.all_reduce(torch.zeros(1))
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        config = LlamaConfig.from_pretrained(model)
        assert not config.tie_word_embeddings  # vLLM renews no tied head whose weights it has repacked
        self.model: Any = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype)).eval()
        self.room, self.stale, self.calls = max_model_len, True, 0
        self.made.append(self)

    def collective_rpc(self, method: str, *, kwargs: dict[str, Iterator[tuple[str, torch.Tensor]]]) -> None:
        assert method == "reload_weights"
        given = dict(kwargs["weights_iterator"])
        self.model.load_state_dict(given)
        self.stale = True

    def reset_prefix_cache(self) -> None:
        self.stale = False

    def generate(self, prompts: list[dict[str, list[int]]], parameters: list[Parameters], *, use_tqdm: bool) -> Any:
        assert not self.stale
        self.calls += 1
        return [
            SimpleNamespace(outputs=[self._one(prompt["prompt_token_ids"], own)])
            for prompt, own in zip(prompts, parameters, strict=True)
        ]

    @torch.no_grad()
    def _one(self, ids: list[int], own: Parameters) -> SimpleNamespace:
        generator = torch.Generator().manual_seed(own.seed)
        tokens: list[int] = []
        places = []
        while len(tokens) < own.max_tokens and not (tokens and tokens[-1] in own.stop_token_ids):
            assert len(ids) + len(tokens) < (self.room or 10_000)
            scores = self.model(torch.tensor([ids + tokens])).logits[0, -1].float()
            if own.allowed_token_ids is not None:
                scores[[*{*range(len(scores))} - {*own.allowed_token_ids}]] = -torch.inf
            log_probs = scores.log_softmax(-1)
            token = int(
                log_probs.argmax() if own.temperature == 0 else log_probs.exp().multinomial(1, generator=generator)
            )
            tokens.append(token)
            places.append({token: SimpleNamespace(logprob=float(log_probs[token]))})
        return SimpleNamespace(token_ids=tokens, logprobs=places)


Engine.made = []


@contextmanager
def fake_vllm() -> Iterator[type[Engine]]:
    """The package vllm is this engine."""
    module = ModuleType("vllm")
    module.__spec__ = SimpleNamespace(name="vllm")  # type: ignore[assignment]
    module.LLM, module.SamplingParams = Engine, Parameters  # type: ignore[attr-defined]
    Engine.made.clear()
    with mock.patch.dict(sys.modules, {"vllm": module}):
        yield Engine
