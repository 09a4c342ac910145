"""Responses: against a plain loop over the model's logits, repeatable, free of the model's own sampling settings.

"static" and "graph" are held to the same; on a CPU they run without compilation or a graph.
"""

import logging as python_logging
from collections import Counter
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from grkd.errors import UserError
from grkd.models.generate import Response, fastest_method, generate_responses

PROMPTS = [[5], [3, 4, 9, 8, 7, 11], [6, 2], [10, 12, 13, 14], [3, 3, 3]]
VOCABULARY = 20
METHODS = ["dynamic", "static", "graph"]


def tiny(family: str = "llama") -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 1}
    torch.manual_seed(0)
    if family == "gemma2":
        sliding = Gemma2Config(**sizes, **heads, head_dim=8, sliding_window=3, initializer_range=0.3)
        return Gemma2ForCausalLM(sliding).eval()
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.3)).eval()


def respond(model: PreTrainedModel, prompts: list[list[int]] = PROMPTS, **changes: Any) -> list[list[Response]]:
    options: dict[str, Any] = {"max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0, "stop_ids": [1, 17]}
    options |= {"pad_token_id": 1, "seed": 0, "batch_size": 2, **changes}
    return list(generate_responses(model, prompts, **options))


def in_order(batches: list[list[Response]]) -> list[Response]:
    return sorted((response for batch in batches for response in batch), key=lambda response: response.index)


@torch.no_grad()
def greedy(model: PreTrainedModel, prompt: list[int], stop_ids: list[int], length: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(length):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
        if tokens[-1] in stop_ids:
            break
    return tokens[len(prompt) :]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_greedy_equals_a_loop_over_single_prompts(family: str, method: str) -> None:
    model = tiny(family)
    free = [greedy(model, prompt, [], 8) for prompt in PROMPTS]
    stop_ids = [free[0][3], free[1][0]]  # so that some responses stop early
    responses = in_order(respond(model, temperature=0.0, stop_ids=stop_ids, batch_size=3, method=method))
    assert [response.index for response in responses] == list(range(len(PROMPTS)))
    for prompt, response in zip(PROMPTS, responses, strict=True):
        assert response.response_ids == greedy(model, prompt, stop_ids, 8)
        assert response.finished == (response.response_ids[-1] in stop_ids)
    assert len({len(response.response_ids) for response in responses}) > 1


def test_batches_by_length_in_input_order() -> None:
    batches = respond(tiny())
    assert [[response.index for response in batch] for batch in batches] == [[1, 3], [2, 4], [0]]


@pytest.mark.parametrize("method", METHODS)
def test_stop_token_is_kept_once_and_the_rest_cut(method: str) -> None:
    for response in in_order(respond(tiny(), PROMPTS * 10, max_new_tokens=20, batch_size=50, method=method)):
        stops = [position for position, token in enumerate(response.response_ids) if token in (1, 17)]
        assert response.finished == bool(stops)
        assert stops in ([], [len(response.response_ids) - 1])
        assert response.finished or len(response.response_ids) == 20


@pytest.mark.parametrize("method", METHODS)
def test_seed_decides_and_global_state_is_left_alone(method: str) -> None:
    model = tiny()
    attention = model.config._attn_implementation
    torch.manual_seed(7)
    first = respond(model, method=method)
    drawn = torch.rand(1)
    torch.manual_seed(8)
    assert respond(model, method=method) == first
    assert respond(model, seed=1, method=method) != first
    assert model.config._attn_implementation == attention
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), drawn)


def test_equal_batches_get_different_samples() -> None:
    model = tiny()
    batches = respond(model, [[5, 6]] * 8, batch_size=4, max_new_tokens=12, stop_ids=[])
    texts = [tuple(response.response_ids) for batch in batches for response in batch]
    assert len(set(texts)) == 8


def test_a_batch_does_not_depend_on_those_before_it_having_run() -> None:
    model = tiny()
    whole = generate_responses(
        model,
        PROMPTS,
        max_new_tokens=8,
        temperature=1.0,
        top_p=1.0,
        stop_ids=[1],
        pad_token_id=1,
        seed=0,
        batch_size=2,
    )
    first = next(whole)
    torch.rand(100)  # the caller's own draws between batches
    rest = list(whole)
    assert [first, *rest] == respond(model, stop_ids=[1])


@pytest.mark.parametrize("method", METHODS)
def test_settings_of_the_model_do_not_leak_in(method: str) -> None:
    model = tiny()
    plain = respond(model, max_new_tokens=15, method=method)
    own = model.generation_config
    own.top_k, own.min_p, own.repetition_penalty, own.do_sample, own.temperature = 1, 0.9, 9.0, True, 0.01
    own.max_length, own.suppress_tokens, own.num_beams = 7, [3], 2
    assert respond(model, max_new_tokens=15, method=method) == plain
    endless = in_order(respond(model, max_new_tokens=15, method=method, stop_ids=[]))
    assert all(len(response.response_ids) == 15 for response in endless)  # the model's own eos ends none
    plain = respond(tiny(), max_new_tokens=15, temperature=0.0, method=method)
    assert respond(model, max_new_tokens=15, temperature=0.0, method=method) == plain
    assert model.generation_config is own


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_samples_follow_the_models_distribution(method: str) -> None:
    """First tokens of many draws: the whole vocabulary at top_p 1, the nucleus alone at top_p 0.5, hot and cold."""
    model, draws, rows = tiny(), 4000, 4000
    logits = model(torch.tensor([[5, 6]])).logits[0, -1]

    def drawn(**changes: Any) -> torch.Tensor:
        batches = respond(model, [[5, 6]] * draws, batch_size=rows, max_new_tokens=1, method=method, room=3, **changes)
        counts = Counter(response.response_ids[0] for response in in_order(batches))
        return torch.tensor([counts[token] / draws for token in range(VOCABULARY)])

    for temperature in (1.0, 3.0):
        expected = (logits / temperature).softmax(-1)
        assert (drawn(temperature=temperature) - expected).abs().max() < 4 * 0.5 / draws**0.5
    descending, order = logits.softmax(-1).sort(descending=True)
    nucleus = order[: int((descending.cumsum(-1) < 0.5).sum()) + 1]
    assert sorted(drawn(top_p=0.5).nonzero().flatten().tolist()) == sorted(nucleus.tolist())


def test_a_model_in_training_is_read_without_dropout_and_left_in_training() -> None:
    model = tiny()
    model.config.attention_dropout = 0.9
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.9
    expected = respond(model)
    model.train()
    assert respond(model) == expected
    assert model.training


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_printed(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, method: str) -> None:
    with caplog.at_level(python_logging.WARNING):
        respond(tiny(), method=method)
        respond(tiny(), temperature=0.0, method=method)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_errors() -> None:
    for change in ({"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_new_tokens": 0}, {"batch_size": 0}):
        with pytest.raises(UserError, match=next(iter(change))):
            respond(tiny(), **change)
    with pytest.raises(ValueError, match="at least one token"):
        respond(tiny(), [[1], []])
    assert respond(tiny(), []) == []
    with pytest.raises(ValueError, match="room for 13"):
        respond(tiny(), method="static", room=13)


def test_the_method_on_a_gpu_and_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny()
    assert fastest_method(model, 8192) == "dynamic"
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    assert fastest_method(model, 1) == "graph"
    assert capsys.readouterr().err == ""
    model.config.model_type = "opt"
    assert [fastest_method(model, responses) for responses in (8192, 8191)] == ["static", "dynamic"]
    said = capsys.readouterr().err
    assert said.count("slower: the static decode step does not know opt models") == 1
    spread = tiny()
    spread.lm_head.weight.device_mesh = None  # as FSDP2's parameters have; its processes take turns, call by call
    assert fastest_method(spread, 8192) == "dynamic"
    monkeypatch.setattr(type(model), "_can_compile_fullgraph", False)
    assert fastest_method(model, 8192) == "dynamic"


def test_a_model_that_the_graph_does_not_know() -> None:
    model = tiny()
    model.config.model_type = "opt"
    with pytest.raises(UserError, match=r"does not know opt models.*use auto or dynamic"):
        respond(model, method="graph")


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "top_p": 0.8}])
def test_the_text_depends_on_neither_method_nor_batch(family: str, options: dict[str, Any]) -> None:
    """Equal prompts get different texts; another order of the prompts changes none."""
    model, prompts = tiny(family), PROMPTS * 4
    whole = in_order(respond(model, prompts, **options, batch_size=20))
    assert len({tuple(response.response_ids) for response in whole}) > 15
    for method in METHODS:
        for size in (3, 20):
            assert in_order(respond(model, prompts, **options, batch_size=size, method=method)) == whole
    backwards = in_order(respond(model, PROMPTS[::-1] * 4, **options, batch_size=3, method="graph"))
    for number, response in enumerate(whole):
        other = backwards[number // 5 * 5 + 4 - number % 5]
        assert (other.response_ids, other.finished) == (response.response_ids, response.finished)


@pytest.mark.parametrize("method", METHODS)
def test_tokens_that_no_tokenizer_knows_are_never_drawn(method: str) -> None:
    """Heads are padded; a fresh student gives the padding as much as any token."""
    prompts = [[3]] * 40
    free = [token for response in in_order(respond(tiny(), prompts, method=method)) for token in response.response_ids]
    assert max(free) >= 15
    drawn = in_order(respond(tiny(), prompts, method=method, vocabulary=15, stop_ids=[1]))
    assert max(token for response in drawn for token in response.response_ids) < 15
