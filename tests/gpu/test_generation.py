"""On a GPU the recorded decode step and the compiled one write what `generate` writes, and read live parameters."""

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from transformers import AutoModelForCausalLM as Auto
from transformers import Gemma2Config, LlamaConfig, PreTrainedModel, Qwen3Config

from grkd.kernels import decode_step, draw_tokens
from grkd.models import graph_sampler
from grkd.models.generate import Method, fastest_method, free_memory, generate_responses
from grkd.models.graph_sampler import Draw, sample
from grkd.models.sample_mixed import sample_on_policy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # of inductor and of transformers, which are not ours
]

PROMPTS = [[5], [3, 4, 9, 8, 7, 11], [6, 2], [10, 12, 13, 14], [3, 3, 3]]
SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 5000}
HEADS: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 1}
GEMMA: dict[str, Any] = {"head_dim": 32, "sliding_window": 3, "final_logit_softcapping": 5.0}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, **HEADS),
    "qwen3": Qwen3Config(**SIZES, **HEADS, head_dim=24),
    "gemma2": Gemma2Config(**SIZES, **HEADS, **GEMMA, query_pre_attn_scalar=32),
}


def tiny(family: str = "llama", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIGS[family]
    config.initializer_range = 0.3
    attention = "eager" if family == "gemma2" else "sdpa"
    return Auto.from_config(config, attn_implementation=attention).eval().cuda().to(dtype)


def written(
    model: PreTrainedModel, how: Method, temperature: float, seed: int = 0, top_p: float = 1.0, rows: int | None = 2
) -> list[list[int]]:
    batches = generate_responses(
        model,
        PROMPTS,
        max_new_tokens=12,
        temperature=temperature,
        top_p=top_p,
        stop_ids=[1, 17],
        pad_token_id=1,
        seed=seed,
        batch_size=rows,
        method=how,
    )
    found = {response.index: response.response_ids for batch in batches for response in batch}
    return [found[index] for index in range(len(PROMPTS))]


@pytest.mark.parametrize(
    ("method", "family"), [("static", "llama"), ("graph", "llama"), ("graph", "qwen3"), ("graph", "gemma2")]
)
def test_text_is_that_of_the_growing_cache(method: Method, family: str) -> None:
    model = tiny(family)
    try:
        for temperature, top_p in ((0.0, 1.0), (1.0, 1.0), (1.5, 0.8)):
            expected = written(model, "dynamic", temperature, top_p=top_p)
            assert written(model, method, temperature, top_p=top_p) == expected
        assert written(model, method, 1.0, seed=1) != written(model, method, 1.0)
    finally:
        free_memory()


def test_the_graph_is_the_default_whatever_the_memory_holds() -> None:
    model = tiny()
    assert fastest_method(model, 1) == "graph"
    assert written(model, "auto", 1.0, rows=None) == written(model, "dynamic", 1.0)
    kept = graph_sampler._kept[model].rows
    assert kept._graph is not None
    graph = kept._graph
    written(model, "auto", 1.0, rows=None)
    assert graph_sampler._kept[model].rows._graph is graph  # recorded once
    free_memory()
    assert not graph_sampler._kept


@pytest.mark.parametrize("autocast", [False, True])
def test_parameters_may_change_between_calls(autocast: bool) -> None:
    model = tiny()
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        first = written(model, "graph", 0.0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.7).add_(0.01)
        changed = written(model, "graph", 0.0)
        free_memory()
        assert changed == written(model, "graph", 0.0)  # recorded anew
    assert changed != first
    if not autocast:
        assert changed == written(model, "dynamic", 0.0)
    model.model.layers[0].mlp.up_proj.weight.data = torch.zeros_like(model.model.layers[0].mlp.up_proj.weight)
    if not autocast:
        assert written(model, "graph", 0.0) == written(model, "dynamic", 0.0)  # at another address
    free_memory()


def test_a_students_graph_outlives_its_training_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrapped by accelerate, float32 weights under bfloat16: recorded once, though the weights change."""
    model = tiny()
    accelerator = Accelerator(mixed_precision="bf16")
    student = accelerator.prepare_model(model)
    options: dict[str, Any] = {"teacher_mix": 0.0, "temperature": 1.0, "top_p": 1.0, "vocabulary": 5000}

    def step() -> Any:
        with accelerator.autocast():
            sample_on_policy(
                student, None, PROMPTS, seeds=range(5), max_new_tokens=8, stop_ids=[1], pad_token_id=1, **options
            )
        student(torch.tensor([[5, 6]], device="cuda")).logits.square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.01 * parameter.grad)
        return graph_sampler._kept[model].rows if model in graph_sampler._kept else None

    try:
        first = step()
        assert first.step.dtype == torch.bfloat16
        graph = first._graph
        assert step() is first
        assert first._graph is graph
        free_memory()
        monkeypatch.setattr(graph_sampler, "_SMALL_SHARE", 0.0)
        graph_sampler._in_training.discard(model)
        assert step() is None  # what training takes is not known yet
        kept = step()
        assert kept is not None
        assert step() is kept
    finally:
        free_memory()
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@torch.no_grad()
def test_log_probabilities_in_bfloat16(family: str) -> None:
    model = tiny(family, torch.bfloat16)
    lists = sample(model, PROMPTS * 20, seeds=range(100), max_new_tokens=12, draw=Draw(), stop_ids=[1], batch_size=16)
    exact = tiny(family)
    exact.load_state_dict(model.state_dict())
    off = []
    for answer in (answer for answers in lists for answer in answers):
        prompt = (PROMPTS * 20)[answer.index]
        ids = torch.tensor([prompt + answer.response_ids], device="cuda")
        own = exact(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        own = own.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        off.append((own.cpu() - torch.tensor(answer.log_probs)).abs())
    assert torch.cat(off).mean() < 0.1
    free_memory()


@pytest.mark.parametrize("options", [{}, {"softcap": 20.0}, {"window": 40}])
@pytest.mark.parametrize(("heads", "kv", "dim"), [(9, 3, 64), (24, 8, 128), (8, 4, 256)])
def test_attention_in_bfloat16(heads: int, kv: int, dim: int, options: dict[str, Any]) -> None:
    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda").bfloat16()

    rows, slots = 33, 300
    query, keys, values = draw(rows, heads, dim), draw(rows, kv, slots, dim), draw(rows, kv, slots, dim)
    places = torch.randint(slots, (rows,), device="cuda")
    found = decode_step.attend(query, keys, values, places, scale=dim**-0.5, **options)
    wide = (query.double(), keys.double(), values.double())
    exact = decode_step.attend(*wide, places, scale=dim**-0.5, **options, implementation="torch")
    torch.testing.assert_close(found.double(), exact, rtol=2e-2, atol=2e-2)


def test_draws_are_those_of_the_torch_form() -> None:
    logits = 3 * torch.randn(40, 50_003, device="cuda")
    seeds, places = torch.randint(1 << 62, (40,), device="cuda"), torch.arange(40, device="cuda")
    for options in ({}, {"top_p": 0.9}, {"top_k": 50, "top_p": 0.8, "temperature": 1.3}, {"softcap": 5.0}):
        tokens, log_probs = draw_tokens(logits, seeds, places, **options)
        plain, plain_log_probs = draw_tokens(logits, seeds, places, **options, implementation="torch")
        assert (tokens == plain).float().mean() > 0.95  # near ties of float32
        same = tokens == plain
        torch.testing.assert_close(log_probs[same], plain_log_probs[same], rtol=1e-4, atol=1e-4)
