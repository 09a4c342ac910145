"""Teachers of every kind against a computation by hand."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForSequenceClassification

from grkd.errors import UserError
from grkd.lists.prepare import prepare
from grkd.lists.teachers import kind_of, scored_by
from tests.conftest import word_tokenizer
from tests.lists._toys import context, write_lists


def world(tmp_path: Path, *overrides: str) -> object:
    write_lists(tmp_path / "lists.jsonl", count=3)
    write_lists(tmp_path / "heldout.jsonl", count=2, seed=2)
    here = context(tmp_path, *overrides)
    prepare(here)
    return here


def test_a_sequence_classification_model_scores_pairs(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=1
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "cross")
    tokenizer = word_tokenizer()
    tokenizer.chat_template = None  # with one, sentence-transformers writes the pair as a conversation
    tokenizer.save_pretrained(tmp_path / "cross")
    here = world(tmp_path)
    assert kind_of(str(tmp_path / "cross")) == "cross_encoder"
    found = scored_by(here, str(tmp_path / "cross"))  # type: ignore[arg-type]
    lists = here.lists  # type: ignore[attr-defined]
    row, column = 1, 2
    encoded = tokenizer(lists.queries[row], lists.documents[lists.candidates[row, column]], return_tensors="pt")
    assert found[row, column].item() == pytest.approx(model(**encoded).logits.item(), rel=1e-4)
    assert found[~lists.exists].isnan().all()

    BertForSequenceClassification(BertConfig(**{**config.to_dict(), "num_labels": 3})).save_pretrained(
        tmp_path / "three"
    )
    with pytest.raises(UserError, match="three: has 3 scores per pair"):
        kind_of(str(tmp_path / "three"))


def test_a_language_model_is_asked_one_by_one(tmp_path: Path, tiny_teacher: Path) -> None:
    here = world(tmp_path, "teacher.prompt='{query} {document}'", "teacher.batch_size=3")
    assert kind_of(str(tiny_teacher)) == "language_model"
    found = scored_by(here, str(tiny_teacher))  # type: ignore[arg-type]
    lists = here.lists  # type: ignore[attr-defined]
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher).eval()
    yes, no = (tokenizer(f" {word}")["input_ids"][0] for word in ("Yes", "No"))
    for row, column in ((0, 0), (4, 1)):
        text = f"{lists.queries[row]} {lists.documents[lists.candidates[row, column]]}"
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0, -1]
        assert found[row, column].item() == pytest.approx((logits[yes] - logits[no]).item(), abs=1e-4)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"teacher\.models: .*empty"):
        kind_of(str(tmp_path / "empty"))


def test_a_cross_encoder_of_the_hub_is_none_that_embeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    repository = tmp_path / "models--org--ranker"
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (folder / "modules.json").write_text("[]")
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert kind_of("org/ranker") == "cross_encoder"
