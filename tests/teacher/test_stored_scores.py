"""Log-probabilities of every entry from the k likeliest: by hand, in float64, with and without a padded head."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from grkd.teacher.stored_scores import with_tail


@given(seed=st.integers(0, 2**32 - 1), vocabulary=st.integers(4, 12), padding=st.integers(0, 3), k=st.integers(1, 6))
def test_the_k_and_equal_shares_of_the_rest(seed: int, vocabulary: int, padding: int, k: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.ones(vocabulary + padding))
    ids = np.argsort(-p)[:k]
    found = (
        with_tail(torch.tensor(ids)[None], torch.tensor(np.log(p[ids]))[None], vocabulary=vocabulary)[0].exp().numpy()
    )
    known = [entry for entry in ids if entry < vocabulary]
    whole = 1 - sum(p[entry] for entry in ids if entry >= vocabulary)  # what the server gave to padding is cut
    rest = max(1 - p[ids].sum(), 1e-7) / max(vocabulary - len(known), 1)
    expected = [(p[entry] if entry in known else rest) / whole for entry in range(vocabulary)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if padding == 0 and len(known) < vocabulary:
        np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)
