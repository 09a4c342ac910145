"""Students that are transformers models: the prompts that they read, what they are saved for, the head's seed."""

from pathlib import Path

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import BertConfig, BertModel

from grkd.lists.prepare import prepare
from grkd.lists.student import BiEncoder, new_student, opened, save_student, scored
from grkd.lists.teachers import scored_by
from tests.conftest import word_tokenizer
from tests.lists._toys import context, write_lists


def write_encoder(folder: Path) -> Path:
    """A random BERT of one layer; it knows none of the world's words, so texts differ by length and prompt."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=40, **sizes, initializer_range=0.5)).save_pretrained(folder)
    tokenizer = word_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return folder


def write_bi_encoder(folder: Path, *, similarity: str) -> None:
    transformer = Transformer(str(write_encoder(folder / "encoder")))
    made = SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu", similarity_fn_name=similarity)  # type: ignore[arg-type]
    made.prompts = {"query": "w1 w2 ", "document": "w3 "}
    made.save_pretrained(str(folder), create_model_card=False)


def write_data(folder: Path) -> None:
    write_lists(folder / "lists.jsonl", count=3)
    write_lists(folder / "heldout.jsonl", count=2, seed=2)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_a_bi_encoder_is_asked_with_its_prompts_and_its_similarity(tmp_path: Path, similarity: str) -> None:
    write_data(tmp_path)
    write_bi_encoder(tmp_path / "model", similarity=similarity)
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    here = context(tmp_path, "teacher.scale=3")
    prepare(here)
    found, lists = scored_by(here, str(tmp_path / "model")), here.lists
    for row in (0, 4):
        asked = model.encode_query(lists.queries[row])
        own = lists.candidates[row, lists.exists[row]].tolist()
        offered = model.encode_document([lists.documents[one] for one in own])
        expected = model.similarity(asked, offered)[0] * (3 if similarity == "cosine" else 1)
        torch.testing.assert_close(found[row, lists.exists[row]].float(), expected, rtol=1e-4, atol=1e-4)


def test_a_student_is_trained_on_what_its_users_ask_it(tmp_path: Path) -> None:
    write_data(tmp_path)
    write_bi_encoder(tmp_path / "model", similarity="dot")
    here = context(tmp_path, f"student.model={tmp_path / 'model'}")
    prepare(here)
    student, lists = new_student(here, seed=0), here.lists
    assert isinstance(student, BiEncoder)
    save_student(student, tmp_path / "saved", "card")
    as_used = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    own = lists.candidates[0, lists.exists[0]].tolist()
    offered = as_used.encode_document([lists.documents[one] for one in own])
    expected = 20 * as_used.similarity(as_used.encode_query(lists.queries[0]), offered)[0]
    torch.testing.assert_close(scored(here, student, torch.tensor([0]))[0, : len(own)], expected, rtol=1e-4, atol=1e-4)


def test_the_head_of_a_new_cross_encoder_goes_by_the_seed(tmp_path: Path) -> None:
    write_data(tmp_path)
    write_encoder(tmp_path / "encoder")
    here = context(tmp_path, f"student.model={tmp_path / 'encoder'}", "student.kind=cross_encoder")
    prepare(here)
    before = torch.get_rng_state()
    first, again, other = (scored(here, new_student(here, seed=seed), torch.tensor([0, 1])) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(first, again)
    assert not torch.allclose(first, other)
    save_student(new_student(here, seed=0), tmp_path / "saved", "card")
    reopened = opened(str(tmp_path / "saved"), here.recipe.student, here.device)
    torch.testing.assert_close(scored(here, reopened, torch.tensor([0, 1])), first)
    pairs = [(here.lists.queries[0], here.lists.documents[one]) for one in here.lists.candidates[0, :2].tolist()]
    as_used = CrossEncoder(str(tmp_path / "saved"), device="cpu").predict(pairs, activation_fn=torch.nn.Identity())
    assert as_used.tolist() == pytest.approx(first[0, :2].tolist(), abs=1e-4)
