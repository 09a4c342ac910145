"""Models: cut, made afresh, saved and opened again; errors of loading in one line."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from grkd.errors import UserError
from grkd.models.attention import honour_softcap
from grkd.models.cut import fresh, truncated
from grkd.models.load import check_same_vocabulary, context_length, load_language_model, load_tokenizer
from grkd.models.save import save_student

SLIDING = {"head_dim": 8, "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"] * 2}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, {"tie_word_embeddings": False}),
    "llama tied": (LlamaConfig, {"tie_word_embeddings": True}),
    "gemma2": (Gemma2Config, {**SLIDING, "final_logit_softcapping": 2.0}),
    "gemma3": (Gemma3TextConfig, SLIDING),
    "qwen2": (Qwen2Config, {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 3}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
}
IDS = torch.tensor([[3, 7, 9, 11, 30, 2, 5, 8]])


def config_of(family: str, **changes: Any) -> Any:
    config_class, extra = FAMILIES[family]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "vocab_size": 40}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    ends = {"bos_token_id": 2, "eos_token_id": [1, 3, 4, 5], "pad_token_id": 1}  # as many eos ids as layers
    return config_class(**{**sizes, **heads, **ends, "initializer_range": 0.3, **extra, **changes})


def tiny(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = honour_softcap(AutoModelForCausalLM.from_config(config_of(family))).eval()
    model.generation_config.temperature = 0.6  # without do_sample, as some published configs have it
    return model


def tokenizer(**vocabulary: int) -> PreTrainedTokenizerFast:
    known = {"<s>": 0, "</s>": 1, "a": 2, "b": 3} | vocabulary
    inner = Tokenizer(models.WordLevel(known, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    made.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return made


class _Skip(torch.nn.Module):
    def forward(self, hidden: torch.Tensor, *_arguments: Any, **_named: Any) -> torch.Tensor:
        return hidden


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_truncation_equals_the_teacher_with_the_other_layers_skipped(family: str) -> None:
    teacher = tiny(family)
    student = truncated(teacher, [0, 2, 3])
    assert student.config.num_hidden_layers == 3
    assert student.config.eos_token_id == [1, 3, 4, 5]
    assert student.generation_config.temperature == 0.6
    whole = teacher(IDS).logits
    torch.testing.assert_close(truncated(teacher, [0, 1, 2, 3])(IDS).logits, whole, rtol=0, atol=0)
    teacher.model.layers[1] = _Skip()
    expected = teacher(IDS).logits
    assert (expected - whole).abs().max() > 0.01
    torch.testing.assert_close(student(IDS).logits, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_truncation_keeps_ties_and_shares_no_memory(family: str) -> None:
    teacher = tiny(family)
    student = truncated(teacher, [1, 2])
    tied = teacher.lm_head.weight is teacher.model.embed_tokens.weight
    assert (student.lm_head.weight is student.model.embed_tokens.weight) == tied
    with torch.no_grad():
        before = teacher(IDS).logits
        for parameter in student.parameters():
            parameter.zero_()
        torch.testing.assert_close(teacher(IDS).logits, before, rtol=0, atol=0)


def test_truncation_cuts_lists_with_an_entry_a_layer() -> None:
    student = truncated(tiny("gemma2"), [1, 2, 3])
    assert student.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    assert truncated(tiny("llama").to(torch.bfloat16), [0]).dtype == torch.bfloat16


def test_truncation_leaves_the_random_state_alone() -> None:
    teacher = tiny("llama")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    truncated(teacher, [0])
    fresh(teacher.config, {}, 5)
    torch.testing.assert_close(torch.rand(2), expected)


@pytest.mark.parametrize("layers", [[], [0, 4], [-1, 2], [2, 1], [1, 1]])
def test_truncation_refuses_numbers_out_of_range_or_order(layers: list[int]) -> None:
    with pytest.raises(UserError, match="rising numbers from 0 to 3"):
        truncated(tiny("llama"), layers)


def test_fresh_student() -> None:
    config = config_of("gemma2")
    first, again, other = (fresh(config, {"num_hidden_layers": 2, "hidden_size": 16}, seed) for seed in (0, 0, 1))
    assert first.config.layer_types == ["sliding_attention", "full_attention"]
    assert (first.config.hidden_size, first.config.final_logit_softcapping) == (16, 2.0)
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert fresh(config, {}, 0).config.layer_types == config.layer_types
    assert fresh(config, {}, 0, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert config.num_hidden_layers == 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"hiden_size": 16}, "no field 'hiden_size'; did you mean 'hidden_size'"),
        ({"zzz": 1}, "no field 'zzz'$"),
        ({"hidden_size": "many"}, r"student\.config: .*hidden_size"),
        ({"num_attention_heads": 5}, r"student\.config: "),
    ],
)
def test_fresh_refuses(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        fresh(config_of("gemma2"), overrides, 0)
    assert "\n" not in str(caught.value)


def test_same_vocabulary() -> None:
    check_same_vocabulary(tokenizer(c=4), tokenizer(c=4))
    with pytest.raises(UserError, match=r"token 'c' is 4 in the teacher's \(6 tokens\) and 5 in the student's \(6\)"):
        check_same_vocabulary(tokenizer(c=4, d=5), tokenizer(c=5, d=4))
    with pytest.raises(
        UserError, match=r"token 'c' is absent in the teacher's \(4 tokens\) and 4 in the student's \(5\)"
    ):
        check_same_vocabulary(tokenizer(), tokenizer(c=4))


def test_saved_student_opens_as_an_ordinary_model(tmp_path: Path) -> None:
    student, folder = truncated(tiny("llama tied"), [0, 3]), tmp_path / "student"
    folder.mkdir()
    (folder / "old.txt").write_text("from an earlier run")
    save_student(student, tokenizer(), folder, card="# Card\n")
    names = {file.name for file in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert "old.txt" not in names
    assert (folder / "README.md").read_text() == "# Card\n"
    opened = load_language_model(str(folder), dtype=torch.float32)
    torch.testing.assert_close(opened(IDS).logits, student(IDS).logits, rtol=0, atol=0)
    assert opened.lm_head.weight is opened.model.embed_tokens.weight
    assert (opened.generation_config.temperature, opened.generation_config.do_sample) == (0.6, True)
    assert not opened.training
    read = load_tokenizer(str(folder))
    assert read.get_vocab() == tokenizer().get_vocab()
    assert read.chat_template == tokenizer().chat_template
    assert load_language_model(str(folder), dtype=torch.bfloat16).dtype == torch.bfloat16
    assert context_length(opened) == 64


def test_loading_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "train" / "kd-seed0" / "student").mkdir(parents=True)
    for name in ("modules.json", "classifier.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("{}")
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "llama", "hidden_size": 8, "vocab_size": 9}')
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"half a file")
    cases: list[tuple[str, str | None, str]] = [
        (str(tmp_path / "absent"), None, "no such folder"),
        ("./absent", None, "no such folder"),
        (str(tmp_path / "absent.gguf"), None, "no such file"),
        (str(tmp_path / "empty"), None, "no config.json in it; give a folder written by save_pretrained"),
        (str(tmp_path / "modules.json"), None, "it is a sentence-transformers model, no language model"),
        (str(tmp_path / "classifier.json"), None, "it is a classifier, no language model"),
        (str(tmp_path / "run"), None, "it is a run's folder; give one of its students, such as "),
        (str(tmp_path / "gguf"), None, f"give the GGUF file itself: {tmp_path / 'gguf' / 'model.gguf'}"),
        (str(tmp_path / "gguf"), "other.gguf", "no file 'other.gguf' in it; GGUF files there: model.gguf"),
        (str(tmp_path / "gguf" / "model.gguf"), "other.gguf", "remove gguf_file 'other.gguf'"),
        (str(tmp_path / "gguf" / "model.gguf"), None, "cannot be loaded"),
        (str(tmp_path / "broken"), None, "its model cannot be loaded"),
        ("nobody/no-such-model", None, "could not be loaded from the hub"),
        ("nobody/no-such-model/file.gguf", None, "could not be loaded from the hub"),
    ]
    for model, gguf_file, words in cases:
        with pytest.raises(UserError) as caught:
            load_language_model(model, gguf_file=gguf_file, dtype=torch.float32)
        message = str(caught.value)
        assert words in message
        assert model.removesuffix("/other.gguf") in message
        assert "\n" not in message
    with pytest.raises(UserError, match="its tokenizer could not be loaded"):
        load_tokenizer("nobody/no-such-model")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install grkd\[gguf\]"):
        load_language_model(str(tmp_path / "gguf" / "model.gguf"), dtype=torch.float32)
