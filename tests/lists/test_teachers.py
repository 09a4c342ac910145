"""Teachers of every kind against a computation by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from grkd.errors import UserError
from grkd.lists.language_models import yes_and_no
from grkd.lists.prepare import prepare
from grkd.lists.student import opened
from grkd.lists.teachers import kind_of, scored_by
from tests.conftest import word_tokenizer
from tests.lists._toys import TOPICS, context, write_lists


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


def test_a_cross_encoder_reads_no_further_than_its_context(tmp_path: Path) -> None:
    """Teacher and student, whatever max_tokens says; beyond there are no positions."""
    size = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 8}
    config = BertConfig(vocab_size=40, num_hidden_layers=1, num_attention_heads=2, num_labels=1, **size)
    folder = tmp_path / "cross"
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer = word_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    student = (f"student.model={folder}", "student.kind=cross_encoder")
    here: Any = world(tmp_path, "teacher.max_tokens=200", "student.max_tokens=200", *student)
    found = scored_by(here, str(folder))
    assert torch.equal(found.isfinite(), here.lists.exists)
    shorter: Any = world(tmp_path, "teacher.max_tokens=8", "student.max_tokens=8", *student)
    torch.testing.assert_close(scored_by(shorter, str(folder)), found, equal_nan=True)
    pair = [(here.lists.queries[0], " ".join(here.lists.documents))]
    lengths = [
        opened(str(folder), each.recipe.student, here.device).encoder.preprocess(pair)["input_ids"].shape[1]
        for each in (here, shorter)
    ]
    assert lengths == [8, 8]


def write_language_model(folder: Path) -> None:
    """A random GPT-2, whose positions are absolute, with the words of the world."""
    sizes = {"vocab_size": 40, "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=3, eos_token_id=3, initializer_range=0.5))
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    written = (folder / "tokenizer.json").read_text()
    for number, word in enumerate(["Yes", "No", *(word for words in TOPICS.values() for word in words)]):
        written = written.replace(f'"w{number}"', f'"{word}"')
    (folder / "tokenizer.json").write_text(written)


def test_a_language_model_is_asked_one_by_one(tmp_path: Path) -> None:
    write_language_model(tmp_path / "gpt2")
    here = world(tmp_path, "teacher.prompt='{query} {document} {document}'", "teacher.batch_size=64")
    assert kind_of(str(tmp_path / "gpt2")) == "language_model"
    lists = here.lists  # type: ignore[attr-defined]
    lists.documents[lists.candidates[4, 1]] += " wing jet sail"  # longer than the others beside it
    found = scored_by(here, str(tmp_path / "gpt2"))  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "gpt2").eval()
    yes, no = tokenizer.convert_tokens_to_ids(["Yes", "No"])
    for row, column in ((0, 0), (4, 1)):
        document = lists.documents[lists.candidates[row, column]]
        logits = model(**tokenizer(f"{lists.queries[row]} {document} {document}", return_tensors="pt")).logits[0, -1]
        assert logits[yes] != logits[no]
        assert found[row, column].item() == pytest.approx((logits[yes] - logits[no]).item(), abs=1e-4)


def test_yes_and_no_are_told_apart_where_a_space_is_a_token() -> None:
    pieces = ["<unk>", "▁", "▁Yes", "▁No", "▁Answer", ":"]  # as Llama 2 writes " Yes": ▁ ▁Yes
    inner = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
    assert tokenizer(" Yes")["input_ids"] == [1, 2]
    assert yes_and_no(tokenizer, "model") == ([], 2, 3)
    with pytest.raises(UserError, match="writes Yes and No alike"):
        yes_and_no(word_tokenizer(), "model")


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
