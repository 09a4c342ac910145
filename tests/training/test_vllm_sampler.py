"""Responses by vLLM in the training's process, with an engine that holds weights of its own, as vLLM does.

tests/vllm has the same with the real one.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from grkd import objectives
from grkd.errors import UserError
from grkd.models.cut import truncated
from grkd.models.generate import generate_responses
from grkd.training import vllm_sampler
from grkd.training.groups_file import read_groups_files
from grkd.training.vllm_sampler import VllmSampler
from tests.training.test_grkd_trainer_groups import made

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13], [8]]
STOP, VOCABULARY = 2, 30


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
        assert set(options) == {"skip_tokenizer_init", "gpu_memory_utilization", "logprobs_mode", "enforce_eager"}
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


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[Engine]:
    module = ModuleType("vllm")
    module.__spec__ = SimpleNamespace(name="vllm")  # type: ignore[assignment]
    module.LLM, module.SamplingParams = Engine, Parameters  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    Engine.made.clear()
    return Engine


def student(**changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 40}
    config = LlamaConfig(**sizes, **heads, tie_word_embeddings=True, initializer_range=0.5, **changes)
    return LlamaForCausalLM(config).eval()


def sampler(**changes: Any) -> VllmSampler:
    return VllmSampler(**{"max_new_tokens": 6, "stop_ids": [STOP], "vocabulary": VOCABULARY, "longest": 20} | changes)


def own_greedy(model: Any) -> list[list[int]]:
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0.0, "top_p": 1.0, "stop_ids": [STOP], "seed": 0}
    parts = generate_responses(model, PROMPTS, pad_token_id=0, vocabulary=VOCABULARY, **options)
    return [
        each.response_ids for each in sorted((each for part in parts for each in part), key=lambda each: each.index)
    ]


def test_greedy_answers_are_those_of_the_student_after_each_step(vllm: type[Engine]) -> None:
    model, by_vllm = student(), sampler(temperature=0.0)
    before = [ids for ids, _ in by_vllm(model, PROMPTS, 0.0, [1, 2, 3])]
    assert before == own_greedy(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=3.0)
    model(torch.tensor([PROMPTS[1]]), labels=torch.tensor([PROMPTS[1]])).loss.backward()
    optimiser.step()
    after = [ids for ids, _ in by_vllm(model, PROMPTS, 0.0, [1, 2, 3])]
    assert after == own_greedy(model) != before
    assert len(vllm.made) == 1
    assert vllm.made[0].room == 20


def test_drawn_answers_carry_their_log_probabilities(vllm: type[Engine]) -> None:
    model, by_vllm = student(), sampler()
    seeds = [2**62 + 1, 5, 5]
    found = by_vllm(model, [*PROMPTS[:2], PROMPTS[1]], 0.0, seeds)
    assert found[1] == found[2]
    for prompt, (ids, log_probs) in zip(PROMPTS[:2], found, strict=False):
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1, :VOCABULARY]
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
        torch.testing.assert_close(torch.tensor(log_probs), expected, rtol=1e-5, atol=1e-5)


def test_what_it_cannot_do_is_said_in_one_line(vllm: type[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot sample from a mixture"):
        sampler()(student(), PROMPTS, 0.2, [1, 2, 3])
    adapted = student()
    adapted.peft_config = {}
    with pytest.raises(UserError, match="does not know students with adapters"):
        sampler()(adapted, PROMPTS, 0.0, [1, 2, 3])
    monkeypatch.setattr(Engine, "__init__", lambda self, **options: (_ for _ in ()).throw(ValueError("no\nroom")))
    with pytest.raises(UserError, match="vLLM does not open this student: no room; leave use_vllm out"):
        sampler()(student(), PROMPTS, 0.0, [1, 2, 3])
    monkeypatch.setattr(vllm_sampler, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="use_vllm: the package vllm is not installed: pip install"):
        sampler()


@pytest.mark.parametrize(
    ("method", "samples", "adapters", "said"),
    [
        (("grpo", {}), True, True, "does not know students with adapters"),
        (("minillm", {"teacher_mix": 0.2}), True, False, "own samples from a mixture with the teacher"),
        (("kd", {}), False, False, "no method samples in training"),
    ],
)
def test_before_anything_is_loaded(
    vllm: type[Engine], method: tuple[str, dict[str, Any]], samples: bool, adapters: bool, said: str
) -> None:
    objective = objectives.load(method[0], **method[1])
    with pytest.raises(UserError, match=said):
        vllm_sampler.check_use({"own": objective}, lambda _: samples, adapters=adapters)
    vllm_sampler.check_use({"own": objectives.load("opd")}, lambda _: True, adapters=False)


def test_a_trainer_samples_by_it(vllm: type[Engine], tmp_path: Path, tiny_teacher: Path) -> None:
    teacher = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    trainer = made(tmp_path, truncated(teacher, [0, 2]), teacher, "grpo", use_vllm=True)
    trainer.train()
    assert len(vllm.made) == 1
    lines = read_groups_files(tmp_path / "groups")
    assert {line["step"] for line in lines} == {0, 1, 2}
    assert vllm.made[0].calls == 3
