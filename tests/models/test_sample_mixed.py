"""On-policy responses against the models' own logits, computed anew without a cache, one response at a time."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from grkd.errors import UserError
from grkd.models import sample_mixed
from grkd.models.sample_mixed import sample_on_policy

PROMPTS = [[5], [3, 4, 9, 8, 7, 11], [6, 2], [10, 12, 13, 14], [3, 3, 3]]
VOCABULARY = 18  # both heads are longer: the rest is padding


def tiny(seed: int, family: str = "llama", head: int = 20, **more: Any) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": head}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 1}
    torch.manual_seed(seed)
    if family == "gemma2":
        sliding = Gemma2Config(**sizes, **heads, head_dim=8, sliding_window=3, initializer_range=0.3, **more)
        return Gemma2ForCausalLM(sliding).eval()
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, initializer_range=0.3, **more)).eval()


def sample(student: nn.Module, teacher: nn.Module | None, prompts: Any = PROMPTS, **changes: Any) -> Any:
    options: dict[str, Any] = {"teacher_mix": 0.3, "max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0}
    options |= {"stop_ids": [1, 17], "pad_token_id": 1, "vocabulary": VOCABULARY, "batch_size": 2}
    options["seeds"] = list(range(len(prompts)))
    return sample_on_policy(student, teacher, prompts, **{**options, **changes})


@torch.no_grad()
def mixture(
    student: PreTrainedModel, teacher: PreTrainedModel, tokens: list[int], *, mix: float, temperature: float = 1.0
) -> Tensor:
    """Probabilities of the token after each of `tokens`."""
    ids = torch.tensor([tokens])
    parts = [(model(ids).logits[0, :, :VOCABULARY] / temperature).softmax(-1) for model in (student, teacher)]
    return (1 - mix) * parts[0] + mix * parts[1]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize(("mix", "temperature"), [(0.0, 1.0), (0.3, 1.0), (0.5, 0.7), (1.0, 1.0)])
def test_log_probs_equal_those_computed_anew(family: str, mix: float, temperature: float) -> None:
    student, teacher = tiny(0, family), tiny(1, "llama", head=24)
    prompts = PROMPTS * 3
    found = sample(student, teacher, prompts, teacher_mix=mix, temperature=temperature, batch_size=4)
    assert len(found) == len(prompts)
    for prompt, (response, log_probs) in zip(prompts, found, strict=True):
        assert len(response) == len(log_probs) > 0
        assert max(response) < VOCABULARY
        all_probs = mixture(student, teacher, prompt + response, mix=mix, temperature=temperature)
        expected = all_probs[len(prompt) - 1 : -1].gather(-1, torch.tensor(response)[:, None]).squeeze(-1).log()
        torch.testing.assert_close(torch.tensor(log_probs), expected, rtol=0, atol=2e-5)
    assert len({len(response) for response, _ in found}) > 1


def p_value(tokens: list[int], probabilities: Tensor) -> float:
    """Of the chi-square test that the tokens were drawn from these probabilities; rare tokens are one class."""
    expected = len(tokens) * probabilities.double() / probabilities.double().sum()
    observed = torch.bincount(torch.tensor(tokens), minlength=VOCABULARY).double()
    rare = expected < 5
    columns = [torch.cat([part[~rare], part[rare].sum().unsqueeze(0)]).numpy() for part in (observed, expected)]
    shown = columns[1] > 0
    return float(stats.chisquare(columns[0][shown], columns[1][shown]).pvalue)


@pytest.mark.parametrize("mix", [0.0, 0.4])
def test_tokens_are_drawn_from_the_mixture(mix: float) -> None:
    student, teacher, draws = tiny(0), tiny(1), 4000
    found = sample(student, teacher, [PROMPTS[1]] * draws, teacher_mix=mix, max_new_tokens=1, batch_size=draws)
    tokens = [response[0] for response, _ in found]
    assert p_value(tokens, mixture(student, teacher, PROMPTS[1], mix=mix)[-1]) > 0.01
    assert p_value(tokens, mixture(student, teacher, PROMPTS[1], mix=0.2)[-1]) < 1e-6  # the test would tell


def test_second_tokens_are_drawn_after_the_first() -> None:
    """The teacher's cache: given the first token, the second follows the mixture after it."""
    student, teacher, draws = tiny(0), tiny(1), 6000
    options = {"teacher_mix": 0.5, "max_new_tokens": 2, "batch_size": draws, "stop_ids": []}
    found = sample(student, teacher, [PROMPTS[3]] * draws, **options)
    first = int(torch.bincount(torch.tensor([response[0] for response, _ in found])).argmax())
    seconds = [response[1] for response, _ in found if response[0] == first]
    assert len(seconds) > 500
    assert p_value(seconds, mixture(student, teacher, [*PROMPTS[3], first], mix=0.5)[-1]) > 0.01
    assert p_value(seconds, mixture(student, teacher, [*PROMPTS[3], first], mix=0.0)[-1]) < 1e-6


def test_the_nucleus_is_cut_and_sums_to_one() -> None:
    student, teacher = tiny(0), tiny(1)
    prompt, draws = PROMPTS[1], 2000
    found = sample(student, teacher, [prompt] * draws, max_new_tokens=1, top_p=0.6, batch_size=draws)
    probs = mixture(student, teacher, prompt, mix=0.3)[-1]
    nucleus, mass = [], 0.0
    for token in probs.argsort(descending=True).tolist():
        nucleus.append(token)
        mass += probs[token].item()
        if mass >= 0.6:
            break
    assert 1 < len(nucleus) < VOCABULARY
    assert {response[0] for response, _ in found} == set(nucleus)
    for response, log_probs in found:
        assert log_probs[0] == pytest.approx(math.log(probs[response[0]].item() / mass), abs=1e-5)


def test_a_stop_token_ends_a_response_and_the_limit_cuts_it() -> None:
    found = sample(tiny(0), tiny(1), PROMPTS * 20, max_new_tokens=12, batch_size=100)
    lengths = set()
    for response, log_probs in found:
        stops = [place for place, token in enumerate(response) if token in (1, 17)]
        assert stops == [len(response) - 1] or (not stops and len(response) == 12)
        assert all(math.isfinite(value) and value < 0 for value in log_probs)
        lengths.add(len(response))
    assert {1, 12} <= lengths


def test_padding_beyond_the_vocabulary_is_never_drawn() -> None:
    found = sample(tiny(0), tiny(1), PROMPTS * 20, pad_token_id=19, batch_size=100)
    assert all(max(response) < VOCABULARY for response, _ in found)
    assert all(math.isfinite(value) for _, log_probs in found for value in log_probs)


def test_the_seed_of_a_prompt_decides_its_response() -> None:
    student, teacher = tiny(0), tiny(1)
    state = torch.get_rng_state()
    first = sample(student, teacher)
    assert sample(student, teacher) == first
    assert sample(student, teacher, seeds=[9, 1, 2, 3, 4])[1:] == first[1:]
    assert sample(student, teacher, seeds=[9, 1, 2, 3, 4])[0] != first[0]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("mix", [0.0, 0.3])
def test_a_response_does_not_depend_on_its_batch(mix: float) -> None:
    """The same ids in any split and order; log-probabilities up to rounding."""
    student, teacher = tiny(0), tiny(1)
    prompts, seeds = PROMPTS * 4, list(range(20))
    whole = sample(student, teacher, prompts, teacher_mix=mix, batch_size=20)
    for split in (1, 3, 7):
        found = sample(student, teacher, prompts[::-1], teacher_mix=mix, batch_size=split, seeds=seeds[::-1])[::-1]
        assert [ids for ids, _ in found] == [ids for ids, _ in whole]
        for (_, ours), (_, theirs) in zip(found, whole, strict=True):
            assert ours == pytest.approx(theirs, abs=2e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_decode_step_of_a_gpu_gives_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # In float64: what is left is the rounding of the log-probabilities, which are float32.
    student, prompts = tiny(0, family).train().double(), PROMPTS * 4
    plain = sample(student, None, prompts, teacher_mix=0.0, top_p=0.9)
    monkeypatch.setattr(sample_mixed, "fastest_method", lambda *_: "graph")
    found = sample(Wrapper(student), None, prompts, teacher_mix=0.0, top_p=0.9, batch_size=None)
    assert [ids for ids, _ in found] == [ids for ids, _ in plain]
    for (_, ours), (_, theirs) in zip(found, plain, strict=True):
        assert ours == pytest.approx(theirs, abs=3e-6)
    mixed = sample(student, tiny(1, family).double(), prompts)  # `generate`, whatever is fastest
    assert mixed != found


class Wrapper(nn.Module):
    """As DDP keeps its model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def test_modes_gradients_and_settings_are_left_alone() -> None:
    student, teacher = tiny(0, attention_dropout=0.9), tiny(1)
    expected = sample(student, teacher)
    student.train()
    student.config.use_cache = False  # as with gradient checkpointing
    student.model.layers[1].eval()
    student.generation_config.repetition_penalty = 50.0
    own = student.generation_config
    modes = [part.training for part in student.modules()]
    assert sample(Wrapper(student), teacher) == expected  # no dropout, no penalty
    assert [part.training for part in student.modules()] == modes
    assert student.generation_config is own
    assert not teacher.training
    assert all(parameter.grad is None for parameter in student.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft's, on newer transformers
def test_a_peft_student_speaks_with_its_adapter() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    plain, teacher = [response for response, _ in sample(tiny(0), None, teacher_mix=0.0)], tiny(1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=True)
    student = peft.get_peft_model(tiny(0), config)
    assert [response for response, _ in sample(student, None, teacher_mix=0.0)] == plain  # an adapter starts at zero
    for name, parameter in student.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    (response, log_probs), *_ = sample(student, teacher, stop_ids=[])
    merged = student.merge_and_unload()
    probs = mixture(merged, teacher, PROMPTS[0] + response, mix=0.3)[len(PROMPTS[0]) - 1 : -1]
    expected = probs.gather(-1, torch.tensor(response)[:, None]).squeeze(-1).log()
    torch.testing.assert_close(torch.tensor(log_probs), expected, rtol=0, atol=2e-5)


def test_without_a_mixture_the_teacher_is_not_asked() -> None:
    class Silent(nn.Module):
        def forward(self, **_: Any) -> None:
            raise AssertionError("asked")

    student = tiny(0)
    assert sample(student, Silent(), teacher_mix=0.0) == sample(student, None, teacher_mix=0.0)


def test_no_prompts_give_no_responses() -> None:
    assert sample(tiny(0), None, [], teacher_mix=0.0) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("teacher_mix", 1.1),
        ("teacher_mix", -0.1),
        ("temperature", 0.0),
        ("top_p", 0.0),
        ("max_new_tokens", 0),
        ("batch_size", 0),
    ],
)
def test_values_out_of_range_are_refused(option: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{option}|temperature of"):
        sample(nn.Identity(), nn.Identity(), **{option: value})


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        sample(tiny(0), tiny(1), [[1], []])
    with pytest.raises(ValueError, match="needs a teacher"):
        sample(tiny(0), None)
    with pytest.raises(ValueError, match="5 prompts need as many seeds, got 2"):
        sample(tiny(0), tiny(1), seeds=[0, 1])
    with pytest.raises(ValueError, match="16 logits cannot be cut to a vocabulary of 18"):
        sample(tiny(0), tiny(1, head=16))
