"""What the tokens of a vocabulary spell, as bytes: by that, tokens of two vocabularies can be compared."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from grkd.errors import UserError
from grkd.files import parse_json

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"  # SentencePiece's


def spellings(tokenizer: Any) -> list[bytes | None]:
    """The bytes that each token of a vocabulary spells, by its id; None for control tokens and ids without a token.

    Read from the tokenizer's decoder: byte-level BPE, or SentencePiece's (a space is U+2581, <0x0A> a byte).
    Raises UserError for a tokenizer of another kind, whose tokens spell no bytes of their own.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    kinds = set(_kinds(parse_json(backend.to_str(), strict=False).get("decoder"))) if backend is not None else set()
    if not kinds & {"ByteLevel", "Metaspace", "Replace"}:
        raise UserError(
            f"{getattr(tokenizer, 'name_or_path', '') or 'tokenizer'}: tokens of two vocabularies are compared by the "
            "bytes that they spell, and this tokenizer is neither byte-level BPE nor SentencePiece; use methods that "
            "compare responses"
        )
    vocabulary, control = tokenizer.get_vocab(), set(tokenizer.all_special_ids)
    found: list[bytes | None] = [None] * (max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        found[number] = _of_bytes(token) if "ByteLevel" in kinds else _of_pieces(token)
    for number, added in tokenizer.added_tokens_decoder.items():
        found[number] = None if added.special or number in control else added.content.encode()
    return found


def spelt(ids: Sequence[int], known: Sequence[bytes | None]) -> tuple[bytes, list[int]]:
    """The text of a response up to its first control token, and the place in bytes where each of its tokens begins.

    The control token itself begins at the text's end; tokens behind it are left out.
    """
    text, starts = b"", []
    for number in ids:
        starts.append(len(text))
        own = known[number] if number < len(known) else None
        if own is None:
            break
        text += own
    return text, starts


def _kinds(decoder: Any) -> Iterator[str]:
    if isinstance(decoder, dict):
        yield decoder.get("type", "")
        for inner in decoder.get("decoders", []):
            yield from _kinds(inner)


def _of_bytes(token: str) -> bytes | None:
    try:
        return bytes(_BYTES[character] for character in token)
    except KeyError:  # a token that was added as text
        return token.encode()


def _of_pieces(token: str) -> bytes:
    if match := _BYTE.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace(_SPACE, " ").encode()


def _byte_characters() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + at): byte for at, byte in enumerate(others)}}


_BYTES = _byte_characters()
