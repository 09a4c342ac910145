"""Reward models: the model's own logits, whatever the batch, the padding and the template."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from grkd import rankers
from grkd.errors import UserError
from grkd.rankers import Resources
from tests.language._score_runs import TEMPLATE, WORDS, tokenizer

PROMPTS = ["w1 w2", [{"role": "user", "content": "w3"}]]
RESPONSES = [["w4", "w5 w6 w7 w8"], ["w9 w10"]]


def saved_llama(folder: Path, *, labels: int = 1, **changes: Any) -> Path:
    words = tokenizer(template=TEMPLATE)
    for name, value in changes.items():
        setattr(words, name, value)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.5,
        num_labels=labels,
        pad_token_id=None,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def opened(folder: Path, batch_size: int = 8, **options: Any) -> rankers.Ranker:
    ranker = rankers.load("reward_model", model=str(folder), **options)
    ranker.open(Resources(batch_size=batch_size))
    return ranker


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("pad", ["<pad>", "<end>", None])
def test_the_models_own_logit_of_the_conversation(tmp_path: Path, pad: str | None, batch_size: int) -> None:
    """pad == eos, or none at all: the last token of a response must still be found."""
    folder = saved_llama(tmp_path, pad_token=pad)
    found = opened(folder, batch_size)(PROMPTS, RESPONSES)
    model, words = LlamaForSequenceClassification.from_pretrained(folder).eval(), tokenizer()
    model.config.pad_token_id = None
    for group, texts in enumerate(RESPONSES):
        prompt = PROMPTS[group]
        asked = prompt if isinstance(prompt, str) else prompt[0]["content"]
        for place, text in enumerate(texts):
            ids = words(f"<turn> user {asked} <end> <turn> assistant {text} <end> ")["input_ids"]
            with torch.no_grad():
                expected = model(torch.tensor([ids])).logits[0, 0].item()
            assert found[group, place] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert math.isnan(found[1, 1])


def test_one_of_several_labels(tmp_path: Path) -> None:
    folder = saved_llama(tmp_path, labels=3)
    with pytest.raises(UserError, match="has several labels; set label to one of: LABEL_0, LABEL_1, LABEL_2"):
        opened(folder)
    with pytest.raises(UserError, match="has no label 'good'"):
        opened(folder, label="good")
    by_name, by_number = (opened(folder, label=label)(PROMPTS, RESPONSES) for label in ("LABEL_2", 2))
    np.testing.assert_array_equal(by_name, by_number)
    assert not np.allclose(by_name[0], opened(folder, label=0)(PROMPTS, RESPONSES)[0])


def test_too_long_has_no_score(tmp_path: Path) -> None:
    ranker = opened(saved_llama(tmp_path))
    found = ranker(["w1"], [["w2", "w3 " * 40]])
    assert np.isnan(found).tolist() == [[False, True]]
    assert {name: tally.value for name, tally in ranker.tallies.items()} == {"too_long": 1.0}


def test_the_context_of_roberta_is_shorter_than_its_positions(tmp_path: Path) -> None:
    """Its first token has the position behind that of padding: with 10 positions and padding at 1, eight tokens fit."""
    words = tokenizer(template=None)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = RobertaConfig(vocab_size=len(WORDS), max_position_embeddings=10, num_labels=1, pad_token_id=1, **size)
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    lengths = [len(words("w2", " ".join(["w3"] * n))["input_ids"]) for n in range(1, 12)]
    found = opened(tmp_path)(["w2"], [[" ".join(["w3"] * n) for n in range(1, 12)]])
    assert np.isfinite(found[0]).tolist() == [length <= 8 for length in lengths]
    assert min(lengths) <= 8 < max(lengths)


def test_nan_is_a_fault_and_no_abstention(tmp_path: Path) -> None:
    folder = saved_llama(tmp_path)
    model = LlamaForSequenceClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.score.weight, math.nan)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="gives NaN for a response; try dtype: float32"):
        opened(folder)(PROMPTS, RESPONSES)


def test_a_pair_of_texts_without_a_template(tmp_path: Path) -> None:
    """Encoders know the two texts apart by their token types."""
    words = tokenizer(template=None)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        num_labels=1,
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    found = opened(tmp_path)(PROMPTS, RESPONSES)
    with torch.no_grad():
        expected = model(**words("w1 w2", "w4", return_tensors="pt")).logits.item()
    assert found[0, 0] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a sequence-classification model"):
        opened(tmp_path)


def test_a_language_model_without_a_reward_head(tmp_path: Path) -> None:
    saved_llama(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 tensor \(score.weight\), which would be random"):
        opened(tmp_path)
