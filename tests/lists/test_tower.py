"""A tower's words, and the pieces that stand for words that it does not know."""

import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from grkd.errors import UserError
from grkd.lists.student import opened
from grkd.lists.tower import build_tower, save_encoder
from grkd.recipe import RankStudent
from tests.lists._toys import recipe

TEXTS = ["walking walks talking", "walking talks jumping", "talking jumps walker"]


def test_unknown_words_are_read_in_pieces_and_known_ones_whole(tmp_path: Path) -> None:
    tower = build_tower(TEXTS, dimensions=16, pieces=90, seed=0)
    tokenizer = tower[0].tokenizer
    assert tokenizer.encode("walking!").tokens == ["walking"]  # in two texts
    pieces = tokenizer.encode("walkers").tokens
    assert len(pieces) > 1
    assert "".join(piece.removeprefix("##") for piece in pieces) == "walkers"
    assert "[UNK]" not in pieces
    # A related word lies nearer than an unrelated one, though no text has the word.
    walkers, walker, jumping = tower.encode(["walkers", "walker", "jumping"], normalize_embeddings=True)
    assert walkers @ walker > walkers @ jumping

    tower.save_pretrained(str(tmp_path / "tower"), create_model_card=False)
    again = SentenceTransformer(str(tmp_path / "tower"), device="cpu")  # as a user opens it
    np.testing.assert_allclose(again.encode(["walkers talk"]), tower.encode(["walkers talk"]), atol=1e-6)
    plain = build_tower(TEXTS, dimensions=16, seed=0)
    assert plain[0].tokenizer.encode("walkers").tokens == ["[UNK]"]


def test_a_text_of_unknown_words_alone_has_a_finite_gradient(tmp_path: Path) -> None:
    tower = build_tower(["red boat", "red sail", "blue boat", "blue sail"], dimensions=4, seed=0)
    tower.save_pretrained(str(tmp_path), create_model_card=False)
    again = opened(str(tmp_path), RankStudent(), torch.device("cpu")).encoder
    for model in (tower, again):
        found = model(model.preprocess(["zest", "red boat", "red zest"]))["sentence_embedding"]
        (found @ torch.arange(4.0)).square().sum().backward()
        gradient = model[0].embedding.weight.grad
        assert torch.isfinite(gradient).all()
        assert gradient.norm() < 100
        assert not gradient[0].any()
        assert not found[0].any()
    # Whoever opens the folder reads the same: zeros in a mean change no direction.
    texts = ["red zest boat", "sail", "zest"]
    plain = SentenceTransformer(str(tmp_path), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(plain, tower.encode(texts, convert_to_tensor=True))


def test_hashed_words_need_no_vocabulary_and_open_without_grkd(tmp_path: Path) -> None:
    tower = build_tower(TEXTS, dimensions=16, hidden=[24], buckets=4096, seed=0)
    first = tower[0]
    rows = [1 + zlib.crc32(word.encode()) % 4095 for word in ("walking", "über")]  # "über" is in no text
    assert first.ids("Walking, ÜBER!") == rows
    assert first.ids("...") == [0]
    # Before training a row is as long as its word is rare: in 2 of 3 texts, and in none.
    lengths = first.embedding.weight[rows].norm(dim=-1)
    plain = build_tower([], dimensions=16, hidden=[24], buckets=4096, seed=0)[0].embedding.weight[rows].norm(dim=-1)
    rarity = torch.tensor([math.log(4 / 3) + 1, math.log(4) + 1])
    torch.testing.assert_close(lengths / plain, rarity)  # without texts every row has rarity 1

    texts = ["walking über alles", "walks", "?"]
    save_encoder(tower, tmp_path / "student")
    reopened = opened(str(tmp_path / "student"), RankStudent(), torch.device("cpu"))
    torch.testing.assert_close(
        reopened.embedded(texts, batch_size=2, device=torch.device("cpu")),
        tower.encode(texts, convert_to_tensor=True),
    )
    plain = SentenceTransformer(str(tmp_path / "student"), device="cpu", trust_remote_code=True)  # as a user opens it
    assert type(plain[0]).__module__.startswith("transformers_modules.")  # the folder's own code
    np.testing.assert_allclose(plain.encode(texts), tower.encode(texts), atol=1e-6)
    plain.save_pretrained(str(tmp_path / "again"))
    assert (tmp_path / "again" / "hashed_words.py").is_file()  # a copy that a user saves is whole
    # Code that is not ours is not run.
    with (tmp_path / "student" / "hashed_words.py").open("a") as file:
        file.write("print('changed')\n")
    with pytest.raises(UserError, match="not part of Sentence Transformers"):
        opened(str(tmp_path / "student"), RankStudent(), torch.device("cpu"))


@pytest.mark.parametrize("change", ["student.hidden=[1000000000]", "student.dimensions=1000000000"])
def test_layers_that_no_memory_holds_are_refused(tmp_path: Path, change: str) -> None:
    with pytest.raises(UserError, match="65536"):
        recipe(tmp_path, change)


@pytest.mark.parametrize(
    "words",
    [
        ["किताब", "दुनिया", "अच्छी"],
        ["หนังสือ", "สวัสดี", "น้ำ"],
        ["cafe\u0301", "e\u0301te\u0301", "cre\u0300me"],
        ["ΣΑΣ", "ΟΔΟΣ", "Σ"],
    ],
    ids=["Hindi", "Thai", "accents apart", "Greek"],
)
def test_a_tower_reads_the_words_that_it_chose(words: list[str]) -> None:
    texts = [f"{one} {other}" for one in words for other in words if one != other]
    tower = build_tower(texts, dimensions=4, seed=0)
    ids = [tower[0].tokenizer.encode(word).ids for word in words]
    assert all(len(one) == 1 and one[0] for one in ids)
    assert len({one[0] for one in ids}) == 3
