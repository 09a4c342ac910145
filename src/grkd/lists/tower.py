"""A tower for CPUs: the words of a text, embedded, averaged and projected; opened by sentence-transformers alone."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from grkd.errors import UserError
from grkd.lists.libraries import library

_WORD = re.compile(r"\w+")
_UNKNOWN = "[UNK]"
_LONGEST_PIECE = 5


def build_tower(
    texts: Sequence[str],
    *,
    dimensions: int,
    hidden: Sequence[int] = (),
    words: int = 20_000,
    pieces: int = 0,
    seed: int,
) -> Any:
    """A SentenceTransformer of StaticEmbedding, Dense layers with tanh, and Normalize.

    The first weights of a word are random, times its inverse document frequency log((1 + n) / (1 + df)) + 1: before
    training, and without hidden layers, cosines are those of TF-IDF up to a random projection.
    texts: those that choose the words: the most frequent that at least two texts have.
    pieces: number of pieces of words, the most frequent of up to five letters, that stand for all other words, also
    for those of later texts; 0: other words are not read.
    Raises UserError for texts without such a word.
    """
    modules = library("sentence_transformers.sentence_transformer.modules")
    frequency = Counter(word for text in texts for word in set(_WORD.findall(text.lower())))
    common = [word for word, count in sorted(frequency.items(), key=lambda one: (-one[1], one[0])) if count > 1]
    if not common:
        raise UserError("student: tower: no word stands in two texts; give more texts, or a transformers encoder")
    known = common[:words]
    if pieces:
        in_texts = _pieces(frequency, set(known))
        # Letters first: without one of its letters a word has no pieces.
        chosen = sorted(in_texts, key=lambda one: (len(one.removeprefix("##")) > 1, -in_texts[one], one))[:pieces]
        frequency.update({piece: in_texts[piece] for piece in chosen})
        known += chosen
    vocabulary = {_UNKNOWN: 0, **{word: number for number, word in enumerate(known, start=1)}}
    widths = [*hidden, dimensions]
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(len(vocabulary), widths[0], generator=generator) / math.sqrt(widths[0])
    rarity = [0.0] + [math.log((1 + len(texts)) / (1 + min(len(texts), frequency[word]))) + 1 for word in known]
    tokenizer = _tokenizer(vocabulary, pieces=pieces > 0)
    layers: list[Any] = [modules.StaticEmbedding(tokenizer, weights * torch.tensor(rarity).unsqueeze(-1))]
    for before, after in pairwise(widths):
        with torch.random.fork_rng():
            torch.manual_seed(seed + len(layers))
            layers += [modules.Normalize(), modules.Dense(before, after, activation_function=torch.nn.Tanh())]
    made = library("sentence_transformers").SentenceTransformer(modules=[*layers, modules.Normalize()], device="cpu")
    leave_out_unknown(made)
    return made


def leave_out_unknown(encoder: Any) -> None:
    """Unknown words stay unread in training: their row keeps its zeros.

    Else the gradient of a text of unknown words alone is infinite: it is normalised, and its embedding is 0.
    """
    bag = getattr(encoder[0], "embedding", None)
    if isinstance(bag, nn.EmbeddingBag) and not bag.weight[0].any():
        bag.padding_idx = 0


def _pieces(frequency: Counter[str], known: set[str]) -> Counter[str]:
    """How often a piece stands at the beginning of a word or, written with ##, further on; no word is a piece."""
    found: Counter[str] = Counter()
    for word, count in frequency.items():
        for start in range(len(word)):
            for end in range(start + 1, min(len(word), start + _LONGEST_PIECE) + 1):
                found[word[start:end] if start == 0 else f"##{word[start:end]}"] += count
    return Counter({piece: count for piece, count in found.items() if piece not in known})


def _tokenizer(vocabulary: dict[str, int], *, pieces: bool) -> Any:
    """Lower-case words; what is no word is dropped. An unknown word has the first row, or is read in pieces: the
    longest that begins it, then the longest that goes on."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    model = models.WordPiece if pieces else models.WordLevel
    tokenizer = Tokenizer(model(vocabulary, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    # What stands between the words is split off and removed.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\W+"), behavior="removed")
    return tokenizer
