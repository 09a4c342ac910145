"""A tower's words, and the pieces that stand for words that it does not know."""

from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from grkd.lists.tower import build_tower

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
