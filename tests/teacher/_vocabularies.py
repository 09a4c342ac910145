"""Small tokenizers of two kinds that learn from the same few lines: byte-level BPE, and SentencePiece's with bytes."""

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "The teacher says what comes next, and the student learns it.",
    "Two vocabularies spell the same words in other pieces.",
    "Größe, naïve, 東京, emoji 🙂 and   spaces\nin lines\n",
    "one two three four five six seven eight nine ten 1234567890",
]
SPECIAL = ["<pad>", "<end>", "<turn>"]
TEMPLATE = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


def _wrapped(inner: Tokenizer) -> PreTrainedTokenizerFast:
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>")
    made.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    made.chat_template = TEMPLATE
    return made


@cache
def byte_level(size: int = 420) -> Any:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(LINES, trainer)
    return _wrapped(inner)


@cache
def pieces(*, prefix: bool = False) -> Any:
    """As Gemma's: spaces are U+2581, and what no piece spells is written in bytes. prefix: a space before the text."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<0x00>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if prefix else "never", split=True)
    fallback = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence(fallback)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*SPECIAL, *bytes_], show_progress=False)
    inner.train_from_iterator(LINES[:2] + LINES[3:], trainer)
    described = json.loads(inner.to_str())
    described["added_tokens"] = [each for each in described["added_tokens"] if each["content"] in SPECIAL]
    return _wrapped(Tokenizer.from_str(json.dumps(described)))
