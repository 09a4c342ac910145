"""A tower for CPUs: the words of a text, embedded, averaged and projected; opened by sentence-transformers alone."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grkd import hub
from grkd.errors import UserError
from grkd.files import read_json, write_text
from grkd.lists.libraries import library

_UNKNOWN = "[UNK]"
_LONGEST_PIECE = 5
_PROMPTS = (("query",), ("document", "passage", "corpus"))
_HASHED = "hashed_words.HashedWords"  # in modules.json: the file in the folder, and its class


def build_tower(
    texts: Sequence[str],
    *,
    dimensions: int,
    hidden: Sequence[int] = (),
    words: int = 20_000,
    pieces: int = 0,
    buckets: int = 0,
    seed: int,
) -> Any:
    """A SentenceTransformer of embedded words, Dense layers with tanh, and Normalize.

    The first weights of a word are random, times its inverse document frequency log((1 + n) / (1 + df)) + 1: before
    training, and without hidden layers, cosines are those of TF-IDF up to a random projection.
    texts: those that choose the words: the most frequent that at least two texts have.
    pieces: number of pieces of words, the most frequent of up to five letters, that stand for all other words, also
    for those of later texts; 0: other words are not read.
    buckets: above 0 there is no vocabulary: each word is hashed to one of so many rows, also words of later texts.
    Raises UserError for texts without such a word.
    """
    modules = library("sentence_transformers.sentence_transformer.modules")
    widths = [*hidden, dimensions]
    generator = torch.Generator().manual_seed(seed)
    if buckets:
        first = _hashed(texts, widths[0], buckets=buckets, generator=generator)
    else:
        first = _of_vocabulary(texts, widths[0], words=words, pieces=pieces, generator=generator)
    layers: list[Any] = [first]
    for before, after in pairwise(widths):
        with torch.random.fork_rng():
            torch.manual_seed(seed + len(layers))
            layers += [modules.Normalize(), modules.Dense(before, after, activation_function=torch.nn.Tanh())]
    made = library("sentence_transformers").SentenceTransformer(modules=[*layers, modules.Normalize()], device="cpu")
    leave_out_unknown(made)
    return made


def _of_vocabulary(texts: Sequence[str], width: int, *, words: int, pieces: int, generator: torch.Generator) -> Any:
    """StaticEmbedding of the texts' words. Raises UserError if no word stands in two texts."""
    read = _tokenizer({_UNKNOWN: 0}, pieces=False)  # as it will read them: Python's \w splits at the marks of Hindi
    frequency = Counter(word for text in texts for word in set(_words(read, text)))
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
    weights = _random(len(vocabulary), width, [0, *(frequency[word] for word in known)], len(texts), generator)
    modules = library("sentence_transformers.sentence_transformer.modules")
    return modules.StaticEmbedding(_tokenizer(vocabulary, pieces=pieces > 0), weights)


def _hashed(texts: Sequence[str], width: int, *, buckets: int, generator: torch.Generator) -> Any:
    """HashedWords; the texts give no more than how rare each row is."""
    from grkd.lists.hashed_words import HashedWords

    hashed = HashedWords(buckets, 1)
    frequency = Counter(row for text in texts for row in set(hashed.ids(text)))
    weights = _random(buckets, width, [frequency[row] for row in range(buckets)], len(texts), generator)
    return HashedWords(buckets, width, weights)


def _random(rows: int, width: int, frequency: Sequence[int], texts: int, generator: torch.Generator) -> Tensor:
    """Random rows times log((1 + texts) / (1 + frequency)) + 1; the first one is 0, of what is not read."""
    weights = torch.randn(rows, width, generator=generator) / math.sqrt(width)
    rarity = [0.0] + [math.log((1 + texts) / (1 + min(texts, count))) + 1 for count in frequency[1:]]
    return weights * torch.tensor(rarity).unsqueeze(-1)


def open_encoder(folder: str, device: torch.device) -> Any:
    """A SentenceTransformer by folder or hub name. Raises OSError or ValueError if it cannot be loaded.

    Code in the folder is run only if it is the file of hashed words as this package has it, to the byte.
    """
    hub.look_for(folder)
    code = Path(folder) / f"{_HASHED.partition('.')[0]}.py"
    ours = code.is_file() and code.read_bytes() == (Path(__file__).parent / code.name).read_bytes()
    return library("sentence_transformers").SentenceTransformer(folder, device=str(device), trust_remote_code=ours)


def shorten(encoder: Any, most: int) -> None:
    """Have an encoder of sentence-transformers cut texts at `most` tokens, and no later than its own context ends."""
    own = encoder.max_seq_length  # None: unknown; infinite: of a model that averages words
    if own is None or most < own < math.inf:
        encoder.max_seq_length = most


def prompts_of(encoder: Any) -> tuple[str | None, str | None]:
    """What stands before a query and before a document, as `encode_query` and `encode_document` choose it."""
    known = encoder.prompts
    found = (next((name for name in names if name in known), encoder.default_prompt_name) for names in _PROMPTS)
    query, document = (known[name] or None if name is not None else None for name in found)
    return query, document


def save_encoder(encoder: Any, folder: Path) -> None:
    """Save it without a card; hashed words then lie in the folder's own file, so that grkd is not needed there."""
    encoder.save_pretrained(str(folder), create_model_card=False)
    listed = read_json(folder / "modules.json") if (folder / "modules.json").is_file() else []
    if any(str(one["type"]).endswith(f".{_HASHED}") for one in listed):
        plain = [{**one, "type": _HASHED} if str(one["type"]).endswith(f".{_HASHED}") else one for one in listed]
        write_text(folder / "modules.json", json.dumps(plain, indent=2) + "\n")


def leave_out_unknown(encoder: Any) -> None:
    """Unknown words stay unread in training: their row keeps its zeros.

    Else the gradient of a text of unknown words alone is infinite: it is normalised, and its embedding is 0.
    """
    bag = getattr(encoder[0], "embedding", None)
    if isinstance(bag, nn.EmbeddingBag) and not bag.weight[0].any():
        bag.padding_idx = 0


def _words(tokenizer: Any, text: str) -> list[str]:
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))]


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
