"""GGUF files that transformers' own reader opens as the same model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from grkd import cli
from grkd.models.gguf_export import interleaved

pytest.importorskip("gguf", reason="needs pip install 'grkd[gguf]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # gguf's and transformers' own


def student(folder: Path, *, tied: bool, digits: bool = True, **more: Any) -> Path:
    """A random Llama with grouped heads, and a byte-level BPE tokenizer like SmolLM2's (or GPT-2's)."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), level] if digits else [level]
    inner.pre_tokenizer = pre_tokenizers.Sequence(split) if digits else level
    inner.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        ["the cat sat on the mat", "12 + 34 = 46"] * 4,
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", bos_token="<|im_start|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=304, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, **more,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("dtype", "tied", "error"), [("float32", False, 1e-5), ("float16", True, 2e-2)])
def test_transformers_reads_the_same_model(tmp_path: Path, dtype: str, tied: bool, error: float) -> None:
    folder = student(tmp_path / "student", tied=tied)
    target = tmp_path / "out.gguf"
    assert cli.main(["export", str(folder), "--gguf", str(target), "--dtype", dtype]) == 0
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="out.gguf", dtype=torch.float32)
    ids = torch.randint(0, 300, (2, 9))
    with torch.no_grad():
        assert (ours(ids).logits - theirs(ids).logits).abs().max() < error * ours(ids).logits.abs().max()
    assert theirs.config.num_key_value_heads == 2
    assert theirs.config.tie_word_embeddings is tied
    own, read = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(tmp_path, gguf_file="out.gguf")
    for text in ("the cat sat", "on <|im_end|>\n mat", "h\u00e9llo \U0001f600"):
        assert own(text)["input_ids"] == read(text)["input_ids"]
    assert read.chat_template == own.chat_template
    assert (read.eos_token, read.pad_token) == ("<|im_end|>", "<|pad|>")


def test_rotated_rows_stand_side_by_side() -> None:
    """One head of width 4: rows 0 and 2 are rotated together, and 1 and 3."""
    weight = torch.arange(8.0).reshape(8, 1)
    assert interleaved(weight, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"attention_bias": True}, "biases in its layers are not written here"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "type linear"),
    ],
)
def test_what_is_not_written_is_refused(
    tmp_path: Path, more: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = student(tmp_path / "student", tied=True, **more)
    assert cli.main(["export", str(folder), "--gguf", str(tmp_path / "out.gguf")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.gguf").exists()


def test_other_tokenizers_are_refused(tiny_teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", str(tiny_teacher), "--gguf", str(tmp_path / "out.gguf")]) == 2
    assert "its tokenizer is none of those that export can name" in capsys.readouterr().err
    assert cli.main(["export", str(tiny_teacher), "--gguf", "out.bin"]) == 2
    assert "must end in .gguf" in capsys.readouterr().err
