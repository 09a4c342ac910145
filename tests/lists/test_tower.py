"""A tower's words, and the pieces that stand for words that it does not know."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from grkd.errors import UserError
from grkd.lists.student import opened
from grkd.lists.tower import build_tower
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


@pytest.mark.parametrize("change", ["student.hidden=[1000000000]", "student.dimensions=1000000000"])
def test_layers_that_no_memory_holds_are_refused(tmp_path: Path, change: str) -> None:
    with pytest.raises(UserError, match="65536"):
        recipe(tmp_path, change)
