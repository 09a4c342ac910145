"""The static decode step against the models' own forward pass, on a CPU: the same steps without a graph."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from grkd.models import graph_sampler
from grkd.models.decoder_step import DecoderStep, unsupported
from grkd.models.float8 import to_float8
from grkd.models.graph_sampler import Draw, NotSupportedError, Response, free_memory, may_stay, sample

PROMPTS = [[5], [3, 4, 9, 8, 7, 11], [6, 2], [10, 12, 13, 14], [3, 3, 3]]
SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 40}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 1}
SCALED = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, **HEADS, tie_word_embeddings=True),
    "llama scaled": LlamaConfig(
        **SIZES,
        **HEADS,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={**SCALED, "original_max_position_embeddings": 8},
    ),
    "mistral": MistralConfig(**SIZES, **HEADS, sliding_window=3),
    "qwen2": Qwen2Config(**SIZES, **HEADS, use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": Qwen3Config(**SIZES, **HEADS, head_dim=12),
    "gemma2": Gemma2Config(
        **SIZES,
        **HEADS,
        head_dim=8,
        sliding_window=3,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
}


def tiny(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = CONFIGS[family]
    config.initializer_range = 0.3
    attention = "eager" if family == "gemma2" else "sdpa"  # some versions drop the cap of attention elsewhere
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "norm.weight")):  # which start at 0 or 1
            nn.init.normal_(parameter, 0.5, 0.3)
    return model


def answered(model: PreTrainedModel, prompts: list[list[int]] = PROMPTS, **changes: Any) -> list[Response]:
    options: dict[str, Any] = {"max_new_tokens": 8, "draw": Draw(), "stop_ids": [1, 17], "batch_size": 2}
    options["seeds"] = list(range(len(prompts)))
    found = [answer for answers in sample(model, prompts, **{**options, **changes}) for answer in answers]
    assert sorted(answer.index for answer in found) == list(range(len(prompts)))
    return sorted(found, key=lambda answer: answer.index)


@pytest.mark.parametrize("family", CONFIGS)
def test_greedy_tokens_are_those_of_generate(family: str) -> None:
    model = tiny(family)
    free = [generated(model, prompt, stop_ids=[]) for prompt in PROMPTS]
    stop_ids = [free[0][3], free[1][0]]  # so that some end early
    found = answered(model, draw=Draw(temperature=0.0), stop_ids=stop_ids)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        assert answer.response_ids == generated(model, prompt, stop_ids=stop_ids)
        assert answer.finished == (answer.response_ids[-1] in stop_ids)
    assert len({len(answer.response_ids) for answer in found}) > 1


def generated(model: PreTrainedModel, prompt: list[int], *, stop_ids: list[int]) -> list[int]:
    options = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": stop_ids or None, "pad_token_id": 0}
    ids = torch.tensor([prompt])
    tokens = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return tokens[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_log_probabilities_are_the_models_own(family: str) -> None:
    model = tiny(family)
    for answer in answered(model, PROMPTS * 3, draw=Draw(temperature=1.7, vocabulary=35)):
        prompt = (PROMPTS * 3)[answer.index]
        logits = model(torch.tensor([prompt + answer.response_ids])).logits[0, len(prompt) - 1 : -1, :35]
        own = (logits / 1.7).log_softmax(-1).gather(-1, torch.tensor(answer.response_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(answer.log_probs), own, rtol=0, atol=3e-5)
        assert max(answer.response_ids) < 35


def test_finished_rows_take_the_next_prompt() -> None:
    """Thirty prompts over two rows: the same answers as alone, in lists as they finish."""
    model, prompts = tiny(), PROMPTS * 6
    lists = list(
        sample(model, prompts, seeds=range(30), max_new_tokens=40, draw=Draw(), stop_ids=[1, 17], batch_size=2)
    )
    assert len(lists) > 5
    found = {answer.index: answer for answers in lists for answer in answers}
    assert len({len(answer.response_ids) for answer in found.values()}) > 4
    for index in (0, 11, 29):
        (alone,) = answered(model, [prompts[index]], seeds=[index], max_new_tokens=40)
        assert alone.response_ids == found[index].response_ids


def test_parameters_are_read_where_they_lie_and_buffers_are_kept() -> None:
    model, other = tiny(), tiny(seed=1)
    first = answered(model)
    kept = graph_sampler._kept[model].rows
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
            ours.copy_(theirs)
    changed = answered(model)
    assert graph_sampler._kept[model].rows is kept
    assert [answer.response_ids for answer in changed] == [answer.response_ids for answer in answered(other)]
    assert changed != first
    answered(model, max_new_tokens=200)  # does not fit
    assert graph_sampler._kept[model].rows is not kept
    free_memory()
    assert not graph_sampler._kept


def test_under_autocast_copies_follow_the_parameters() -> None:
    model, other = tiny(), tiny(seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        answered(model)
        step = graph_sampler._kept[model].rows.step
        assert step.dtype == torch.bfloat16
        assert {parameter.dtype for parameter in step.parts.parameters()} == {torch.bfloat16}
        with torch.no_grad():
            for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
                ours.copy_(theirs)
        changed = answered(model)
        assert graph_sampler._kept[model].rows.step is step
    assert [answer.response_ids for answer in changed] == [
        answer.response_ids for answer in answered(other.to(torch.bfloat16))
    ]
    assert model.dtype == torch.float32
    answered(model)
    assert graph_sampler._kept[model].rows.step.dtype == torch.float32


def test_a_step_that_is_not_the_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("mistral")
    monkeypatch.setattr(DecoderStep, "_window", lambda *_: None)  # a mistake in our layer
    with pytest.raises(NotSupportedError, match=r"does not give this mistral model's logits \(they differ by"):
        answered(model)
    monkeypatch.undo()
    with pytest.raises(NotSupportedError):  # once refused it is not tried again
        answered(model)
    assert "logits" in str(graph_sampler.reason_against(model))
    answered(tiny("mistral"))


def test_a_teacher_in_float8_writes() -> None:
    """Its layers stay as they are; log-probabilities are the model's own up to the rounding of 8 bits."""
    model = tiny()
    model = to_float8(model)
    answers = answered(model, batch_size=5)
    assert graph_sampler._kept[model].rows.step.copied_bytes == 0
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        logits = model(torch.tensor([prompt + answer.response_ids])).logits[0, len(prompt) - 1 : -1]
        own = logits.log_softmax(-1).gather(-1, torch.tensor(answer.response_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(answer.log_probs), own, rtol=0, atol=0.05)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")  # older versions know no other
def test_modes_are_left_alone_and_dropout_is_off() -> None:
    model = tiny()
    expected = answered(model)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    model.train()
    model.gradient_checkpointing_enable()
    model.model.layers[1].eval()
    modes = [part.training for part in model.modules()]
    state = torch.get_rng_state()
    assert [a.response_ids for a in answered(model)] == [a.response_ids for a in expected]
    assert [part.training for part in model.modules()] == modes
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_an_adapter_speaks() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = tiny()
    answered(base)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    found = answered(model.get_base_model(), draw=Draw(temperature=0.0))
    merged = model.merge_and_unload()
    assert [a.response_ids for a in found] == [generated(merged, prompt, stop_ids=[1, 17]) for prompt in PROMPTS]


def test_one_call_at_a_time() -> None:
    model = tiny()
    first = sample(model, PROMPTS, seeds=range(5), max_new_tokens=8, draw=Draw(), stop_ids=[], batch_size=2)
    next(first)
    answered(model)
    with pytest.raises(RuntimeError, match="another call began"):
        list(first)


def test_what_cannot_be_decoded_says_why() -> None:
    opt = AutoModelForCausalLM.from_config(
        OPTConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=1, vocab_size=40, word_embed_proj_dim=16)
    )
    assert "does not know opt models" in str(unsupported(opt))
    with pytest.raises(NotSupportedError, match="opt"):
        answered(opt)
    for change, reason in (
        ({"hidden_act": "relu"}, "activation relu"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "change with the length"),
    ):
        config = LlamaConfig(**{**SIZES, **HEADS, **change})
        assert reason in str(unsupported(AutoModelForCausalLM.from_config(config)))
    assert unsupported(tiny()) is None


def test_nothing_to_do() -> None:
    assert answered(tiny(), []) == []


@pytest.mark.parametrize(
    ("size", "peak", "stayed", "stays"),
    [
        (8, None, False, True),  # a tenth of the GPU: whatever the training takes
        (8, 79, False, True),
        (16, None, False, False),  # what a training step takes is not known yet
        (16, 40, False, True),  # 16 + 40 of 70
        (16, 41, False, False),
        (16, 56, True, True),  # the peak holds them
        (16, 57, True, False),
    ],
)
def test_buffers_stay_between_steps_of_a_training(size: int, peak: int | None, stayed: bool, stays: bool) -> None:
    """Of a GPU with 80 GB, 70 of them ours: .8 of 70 is 56."""
    gb = 10**9
    memory: dict[str, Any] = {"total": 80 * gb, "available": 70 * gb, "stayed": stayed}
    assert may_stay(size * gb, peak=None if peak is None else peak * gb, **memory) == stays


def test_rows_are_as_many_as_the_free_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven tenths of what is free: the device's own, and what PyTorch holds without using it."""
    step = DecoderStep(tiny(), dtype=torch.float32)
    row = step.row_bytes(128)
    for name, rows in (("memory_reserved", 60), ("memory_allocated", 20)):
        monkeypatch.setattr(torch.cuda, name, lambda _, rows=rows: rows * row)
    for free, rows in ((60, 70), (0, 28), (-40, 1)):  # never none
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free * row, 0))
        assert graph_sampler._rows_that_fit(step, 128) == rows


def test_fewer_prompts_take_the_buffers_that_are_there() -> None:
    """Up to an eighth: how many prompts a student answers changes from step to step, and recording takes long."""
    model = tiny()
    prompts = [[number % 9 + 1, 2] for number in range(16)]
    answered(model, prompts, batch_size=16)
    kept = graph_sampler._kept[model].rows
    answered(model, prompts[:2], batch_size=16)
    assert graph_sampler._kept[model].rows is kept
    answered(model, prompts[:1], batch_size=16)
    assert graph_sampler._kept[model].rows is not kept


def test_bytes_of_the_buffers() -> None:
    """By hand: keys and values of 3 layers, 2 heads of 8; copies where the weights are of another dtype."""
    model = tiny()
    answered(model)
    rows = graph_sampler._kept[model].rows
    assert rows.cache.slots == 128
    row = sum(part[0].numel() * 4 for part in (*rows.cache.keys, *rows.cache.values)) + 40 * 8 + 128 * (8 + 4)
    assert rows.step.row_bytes(128) == row == 2 * 3 * 2 * 8 * 128 * 4 + 1856
    assert rows.bytes == 2 * row
    with torch.autocast("cpu", torch.bfloat16):
        answered(model)
    rows = graph_sampler._kept[model].rows
    copied = sum(parameter.numel() * 2 for parameter in model.parameters())
    assert rows.bytes == 2 * (row - 2 * 3 * 2 * 8 * 128 * 2) + copied
