"""More of a text: copies of it in which words are missing, for a teacher to score and a student to learn from."""

import random
from collections.abc import Sequence


def with_words_left_out(texts: Sequence[str], *, copies: int, dropout: float, seed: int) -> list[str]:
    """All texts `copies` times over, in their order each time; every word is left out with probability `dropout`.

    Words are what spaces part; one at least stays. The same seed gives the same copies. Raises ValueError for a
    dropout outside [0, 1).
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
    drawn = random.Random(seed)
    return [_thinned(text.split(), dropout, drawn) for _ in range(copies) for text in texts]


def _thinned(words: list[str], dropout: float, drawn: random.Random) -> str:
    stays = [drawn.random() >= dropout for _ in words]
    if not any(stays):
        stays[drawn.randrange(len(words))] = True
    return " ".join(word for word, kept in zip(words, stays, strict=True) if kept)
