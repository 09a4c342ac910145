"""Responses by vLLM in the training's process, with an engine that holds weights of its own, as vLLM does.

tests/vllm has the same with the real one.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
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
from tests.training._vllm import Engine, fake_vllm
from tests.training.test_grkd_trainer_groups import made

PROMPTS = [[5, 6, 7], [9, 10, 11, 12, 13], [8]]
STOP, VOCABULARY = 2, 30


@pytest.fixture
def vllm() -> Iterator[type[Engine]]:
    with fake_vllm() as engine:
        yield engine


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


def test_opening_draws_nothing_from_trainings_random_states(
    vllm: type[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # type checks draw from Python's

    def drawn() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]  # noqa: NPY002

    def seeded() -> None:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(7)

    seeded()
    expected, model = drawn(), student()
    seeded()
    sampler()(model, PROMPTS, 0.0, [1, 2, 3])
    assert drawn() == expected


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings", "ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "lm_head", "down_proj"], "use_dora": True, "modules_to_save": ["norm"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 9]}},
    ],
    ids=["head", "tokens"],
)
def test_adapters_are_merged_for_it(vllm: type[Engine], options: dict[str, Any]) -> None:
    """LoRA and DoRA, on the head of a tied model too, trained modules and tokens; its own weights stay."""
    peft = pytest.importorskip("peft")
    model, by_vllm = student(), sampler(temperature=0.0)
    plain = own_greedy(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn_like(weight))
    before = {name: value.clone() for name, value in adapted.state_dict().items()}
    found = [ids for ids, _ in by_vllm(adapted, PROMPTS, 0.0, [1, 2, 3])]
    assert found == own_greedy(adapted.get_base_model()) != plain
    ids = torch.tensor([PROMPTS[1]])
    torch.testing.assert_close(vllm.made[0].model(ids).logits, adapted(ids).logits, rtol=0, atol=1e-5)
    after = adapted.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


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
    quantised = student()
    quantised.is_quantized = True
    with pytest.raises(UserError, match="does not know students with quantised weights"):
        sampler()(quantised, PROMPTS, 0.0, [1, 2, 3])
    with monkeypatch.context() as changed:
        changed.setattr(Engine, "generate", lambda *asked, **options: (_ for _ in ()).throw(RuntimeError("size\n16")))
        with pytest.raises(UserError, match="does not run this student: size 16; remove use_vllm"):
            sampler()(student(), PROMPTS, 0.0, [1, 2, 3])
    monkeypatch.setattr(Engine, "__init__", lambda self, **options: (_ for _ in ()).throw(ValueError("no\nroom")))
    with pytest.raises(UserError, match="vLLM does not open this student: no room; remove use_vllm"):
        sampler()(student(), PROMPTS, 0.0, [1, 2, 3])
    monkeypatch.setattr(vllm_sampler, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="use_vllm: the package vllm is not installed: pip install"):
        sampler()


@pytest.mark.parametrize(
    ("method", "samples", "said"),
    [
        (("minillm", {"teacher_mix": 0.2}), True, "own samples from a mixture with the teacher"),
        (("kd", {}), False, "no method samples in training"),
    ],
)
def test_before_anything_is_loaded(
    vllm: type[Engine], method: tuple[str, dict[str, Any]], samples: bool, said: str
) -> None:
    objective = objectives.load(method[0], **method[1])
    with pytest.raises(UserError, match=said):
        vllm_sampler.check_use({"own": objective}, lambda _: samples)
    vllm_sampler.check_use({"own": objectives.load("opd")}, lambda _: True)


def test_a_trainer_samples_by_it(vllm: type[Engine], tmp_path: Path, tiny_teacher: Path) -> None:
    teacher = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    trainer = made(tmp_path, truncated(teacher, [0, 2]), teacher, "grpo", use_vllm=True)
    trainer.train()
    assert len(vllm.made) == 1
    lines = read_groups_files(tmp_path / "groups")
    assert {line["step"] for line in lines} == {0, 1, 2}
    assert vllm.made[0].calls == 3
