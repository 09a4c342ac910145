"""Text as numbers for networks that are no language models."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def tfidf_features(
    train_texts: list[str], heldout_texts: list[str], *, max_features: int = 4096
) -> tuple[Float[Tensor, "train features"], Float[Tensor, "heldout features"]]:
    """TF-IDF of words (1-2) and of characters within words (2-5), fitted on the training texts alone.

    Half of max_features each, the most frequent; term frequency is 1 + log(count); each half has unit length.
    A held-out text with nothing known in it is a row of zeros. Dense float32: 4 * texts * features bytes.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    half = {"max_features": max_features // 2, "sublinear_tf": True, "dtype": np.float32}
    features = FeatureUnion(
        [
            # Every word counts, also one of a single letter, and so does a sign: no text is without features.
            ("words", TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]", **half)),
            ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), **half)),
        ]
    )
    train = features.fit_transform(train_texts)
    heldout = features.transform(heldout_texts)
    return torch.from_numpy(train.toarray()), torch.from_numpy(heldout.toarray())
