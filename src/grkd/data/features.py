"""Text as numbers for networks that are no language models."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from grkd.files import read_json, write_json

# Every word counts, also one of a single letter, and so does a sign: no text is without features.
_PARTS: dict[str, dict[str, Any]] = {
    "words": {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]"},
    "characters": {"analyzer": "char_wb", "ngram_range": (2, 5)},
}


class TfidfFeatures:
    """TF-IDF of words (1-2) and of characters within words (2-5), fitted on texts.

    Half of max_features each, the most frequent; term frequency is 1 + log(count); each half has unit length.
    A text with nothing known in it is a row of zeros. Dense float32: 4 * texts * features bytes.
    """

    def __init__(self, texts: list[str], *, max_features: int = 4096) -> None:
        self._parts = {name: _vectorizer(name, max_features=max_features // 2) for name in _PARTS}
        for part in self._parts.values():
            part.fit(texts)

    def __call__(self, texts: list[str]) -> Float[Tensor, "texts features"]:
        found = [part.transform(texts).toarray() for part in self._parts.values()]
        return torch.from_numpy(np.concatenate(found, axis=1))

    def save(self, path: Path) -> None:
        """The fitted terms with their weights, as JSON."""
        fitted = {}
        for name, part in self._parts.items():
            terms = sorted(part.vocabulary_, key=part.vocabulary_.__getitem__)
            fitted[name] = {"terms": terms, "idf": [float(weight) for weight in part.idf_]}
        write_json(path, fitted)

    @classmethod
    def load(cls, path: Path) -> "TfidfFeatures":
        """What `save` wrote."""
        made, fitted = cls.__new__(cls), read_json(path)
        made._parts = {}
        for name, kept in fitted.items():
            part = _vectorizer(name, vocabulary={term: place for place, term in enumerate(kept["terms"])})
            part.idf_ = np.array(kept["idf"], dtype=np.float32)
            made._parts[name] = part
        return made


def _vectorizer(name: str, **options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **_PARTS[name], **options)
