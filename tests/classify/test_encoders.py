"""Encoders as teachers and as students: intents by their words, and queries of no class."""

import json
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, pipeline

from grkd.classify.score import teacher_outputs
from grkd.files import read_json
from tests.classify._toys import compare, context
from tests.conftest import word_tokenizer

INTENTS = """
task: classifier
output: {output}
device: cpu
data: {{dataset: clinc150, folder: ., features: tfidf}}
teacher: {{model: ./encoder, training: {{epochs: 1, batch_size: 8, learning_rate: 1e-2}}}}
student: {{model: mlp, options: {{hidden: [8], dropout: 0.1}}}}
methods: [ce, kd, {{name: rkd, angle_weight: 0.0}}]
seeds: [0]
training: {{epochs: 20, batch_size: 8, learning_rate: 1e-2}}
"""


def write_intents(tmp_path: Path) -> None:
    """Three intents told apart by their words, queries of none, and a tiny BERT."""
    words = {"card": ["lost", "stolen", "card"], "rate": ["rate", "percent", "money"], "home": ["address", "moved"]}
    texts = [
        [f"{one} {two} please{' now' * (n % 2)}", label]
        for label, vocabulary in words.items()
        for n in range(8)
        for one, two in [(vocabulary[n % len(vocabulary)], vocabulary[(n // 3) % len(vocabulary)])]
    ]
    outside = [["what is love", "oos"], ["sing now", "oos"]]
    data = {"train": texts, "test": texts[::3], "oos_test": outside}
    (tmp_path / "clinc150_data_full.json").write_text(json.dumps(data))
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    word_tokenizer().save_pretrained(tmp_path / "encoder")


def test_a_small_network_learns_from_an_encoder(tmp_path: Path) -> None:
    write_intents(tmp_path)
    assert set(compare(tmp_path, text=INTENTS).values()) == {"done"}
    run = tmp_path / "run"
    metrics = read_json(run / "evaluate" / "ce-seed0" / "metrics.json")
    assert metrics["accuracy"]["value"] == 1.0  # the words are enough
    assert metrics["outside_auroc"]["value"] > 0.9
    assert 0 <= read_json(run / "evaluate" / "teacher" / "metrics.json")["outside_auroc"]["value"] <= 1
    outputs = teacher_outputs(context(tmp_path, text=INTENTS))
    assert outputs["train_features"].shape == (24, 16)  # what the encoder's last layer reads, for rkd
    assert [outputs[name].shape for name in ("train", "heldout", "outside")] == [(24, 3), (8, 3), (2, 3)]


def test_an_encoder_may_be_the_student_of_a_search(tmp_path: Path) -> None:
    write_intents(tmp_path)
    words = [
        f"student={{model: {tmp_path / 'encoder'}, options: {{new_head: true}}}}",
        "methods=[kd]",
        "training.epochs=1",
    ]
    words += ["search={trials: 2, learning_rate: [1e-4, 1e-2], validation_fraction: 0.25}"]
    assert set(compare(tmp_path, *words, text=INTENTS).values()) == {"done"}
    run = tmp_path / "run"
    assert [one["outcome"] for one in read_json(run / "search.json")] == ["done", "done"]
    assert "outside_auroc" in read_json(run / "evaluate" / "kd-seed0" / "metrics.json")
    told = pipeline("text-classification", str(run / "best" / "model"))("lost card please")
    assert told[0]["label"] in ("card", "rate", "home")
