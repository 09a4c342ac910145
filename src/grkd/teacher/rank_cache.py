"""A cache of ranks: the teacher's order of candidates at every response token, in a folder that needs no teacher.

cache.json says what the records hold and what they were made from; ranks-*.safetensors hold the records, tokens-* the
prompts and responses. A response is found by its content, a digest of its prompt's and its own token ids.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from grkd.data.language import Group, Item
from grkd.errors import UserError
from grkd.files import digest, read_json, write_json
from grkd.inventory import damages, inventory
from grkd.teacher.rank_codec import RankCodec, joined
from grkd.teacher.row_shards import RowShards

FORMAT, VERSION = "grkd rank cache", 3
HEADER = "cache.json"
_CURE = "delete it and give `grkd cache build` again"
_OWN = "GRKDTrainer: omit train_dataset; recipes: responses.source: teacher"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a cache was made from: the teacher's name and the digests of its weights, vocabulary, template and prompts.

    temperature, seed: of the candidates; see grkd.teacher.rank_draws.
    """

    teacher: str
    weights: str
    vocabulary: str
    template: str
    prompts: str
    temperature: float = 1.0
    seed: int = 0


class RankCache:
    """The records of a folder.

    Raises UserError for a folder that holds no cache, one of a later version, and unless `writing`, one that is not
    complete.
    """

    def __init__(self, folder: Path, *, writing: bool = False) -> None:
        self.folder = folder
        header = _header(folder)
        if not (header["complete"] or writing):
            raise UserError(f"{folder}: the cache is not complete; give its `grkd cache build` again")
        self.header = header
        self.codec = RankCodec(**header["codec"])
        self.origin = Origin(**header["origin"])
        self.records = RowShards(folder, name="ranks", dtype=torch.uint8, cure=_CURE)
        self.texts = RowShards(folder, name="tokens", dtype=torch.int32, cure=_CURE)

    @classmethod
    def begun(cls, folder: Path, codec: RankCodec, origin: Origin) -> "RankCache":
        """A folder to write into: a new one, or one that a killed build left, with the share that it found.

        Raises UserError for a folder that was made with other settings or from another teacher.
        """
        wanted = {"codec": asdict(codec), "origin": asdict(origin)}
        if (folder / HEADER).exists():
            found = _header(folder)
            for part, values in wanted.items():
                for name, value in values.items():
                    if name != "share" and found[part].get(name) != value:
                        raise UserError(
                            f"{folder}: it was made with {name} {_short(found[part].get(name))}, now it is "
                            f"{_short(value)}; delete it or give another folder"
                        )
        else:
            write_json(folder / HEADER, {"format": FORMAT, "version": VERSION, **wanted, "complete": False})
        return cls(folder, writing=True)

    def finish(self) -> None:
        """Note size and digest of every file, and that the cache is complete."""
        files = inventory(self.folder, leave_out=(HEADER,))
        self.header |= {"complete": True, "responses": len(self.records), "tokens": self.tokens(), **files}
        write_json(self.folder / HEADER, self.header)

    def __contains__(self, item: Item) -> bool:
        return content_key(item) in self.records

    def __getitem__(self, item: Item) -> UInt8[Tensor, "response bytes"]:
        """The records of a response's tokens, a row each. Raises KeyError for one that is not there."""
        return self.codec.unpack(self.records[content_key(item)])

    def rows(self, items: Sequence[Item]) -> UInt8[Tensor, "tokens bytes"]:
        """The records of several responses, item by item. Raises KeyError for one that is not there."""
        return joined([self[item] for item in items])

    def tokens(self) -> int:
        """Tokens of the responses that have records."""
        found = 0
        for path in self.texts.files():
            about = self.texts.metadata(path)
            for key, length, prompt in zip(about["ids"], about["lengths"], about["prompt_lengths"], strict=True):
                found += length - prompt if key in self.records else 0
        return found

    def means(self) -> dict[str, float]:
        """Mean log-probability of each response under the teacher, nats per token, by content key.

        Raises UserError for a cache of an earlier version, which holds none.
        """
        found: dict[str, float] = {}
        for path in self.records.files():
            about = self.records.metadata(path)
            if "means" not in about:
                raise UserError(f"{path}: it holds no log-probabilities of responses; {_CURE}")
            found |= zip(about["ids"], about["means"], strict=True)
        return found

    def check_whole(self) -> None:
        """Raises UserError, naming the files, if any is missing or not as it was written."""
        if damaged := damages(self.folder, self.header):
            names = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")
            raise UserError(f"{self.folder}: the cache is damaged: {names}; build it again, or copy it again")

    def groups(self, split: str) -> list[Group]:
        """The prompts and responses of a split ("train", "heldout"), as they were when the cache was made."""
        found: dict[str, list[tuple[Item, str]]] = {}
        for path in self.texts.files():
            about = self.texts.metadata(path)
            for key, name, length, source in zip(
                about["ids"], about["names"], about["prompt_lengths"], about["sources"], strict=True
            ):
                if name.startswith(f"{split}/"):
                    ids = self.texts[key][:, 0].tolist()
                    group = name.rpartition("#")[0]
                    found.setdefault(group, []).append((Item(name, ids[:length], ids[length:]), source))
        return [
            Group(
                id=name,
                items=tuple(item for item, _ in items),
                teacher_scores=(0.0,) * len(items),
                sources=tuple(source for _, source in items),
            )
            for name, items in found.items()
        ]

    def described(self) -> dict[str, Any]:
        """What a user should know of it, by name."""
        codec, origin = self.codec, self.origin
        tokens, stored = self.tokens(), float(codec.record_bytes)
        kind = "top candidates" if codec.choose == "top" else "sampled candidates"
        if codec.share is not None:
            kind += f" on average, at most {codec.largest}, one for at most {codec.share:.2%} of the mass"
        if codec.is_weighted_sample:
            stored = sum(self.records.length(key) for key in self.records) / max(tokens, 1)
        return {
            "complete": "yes" if self.header["complete"] else "no: give its build again",
            "responses": f"{len(self.records):,}",
            "tokens": f"{tokens:,}",
            "per token": f"{codec.entries} {kind}{', log-probabilities' if codec.log_probs else ''}",
            "bytes per token": f"{stored:.3g}",
            "bytes of records": f"{sum(path.stat().st_size for path in self.records.files()):,}",
            "bytes of texts": f"{sum(path.stat().st_size for path in self.texts.files()):,}",
            "vocabulary": f"{codec.vocabulary:,}",
            "temperature": f"{origin.temperature:g}",
            "teacher": origin.teacher,
            "digest of teacher": origin.weights,
            "digest of vocabulary": origin.vocabulary,
            "digest of template": origin.template,
            "digest of prompts": origin.prompts,
        }

    def problems(self) -> Iterator[str]:
        """What is wrong with the files: damage, records that cannot be, responses without a record."""
        if damaged := damages(self.folder, self.header):
            yield from damaged
            return
        for key in self.records:
            if mistake := self._mistake(key):
                yield f"response {key}: {mistake}"
            if key not in self.texts:
                yield f"response {key}: its tokens are missing"

    def _mistake(self, key: str) -> str | None:
        """What is wrong with a response's records, if anything."""
        try:
            found = self.codec.decode(self.codec.unpack(self.records[key]))
        except ValueError as error:
            return str(error)
        ids, counts = found.ids, [found.ids.shape[-1]] * len(found.ids)
        if found.counts is not None and found.certain is not None:
            if bool(((found.counts < 2) | (found.counts > self.codec.largest) | (found.certain > found.counts)).any()):
                return "a record with an impossible number of candidates"
            counts = found.counts.tolist()
        kept = [row[:count] for row, count in zip(ids.tolist(), counts, strict=True)]
        if int(ids.max()) >= self.codec.vocabulary or any(len(set(row)) < len(row) for row in kept):
            return "a record with a candidate twice or outside the vocabulary"
        return None


def content_key(item: Item) -> str:
    """The name of a response in a cache: a digest of its prompt's and its own token ids."""
    return digest([list(item.prompt_ids), list(item.response_ids)])[:24]


def vocabulary_digest(tokenizer: Any) -> str:
    return digest(tokenizer.get_vocab())


def missing_from(cache: RankCache, groups: Sequence[Group], where: str) -> None:
    """Raises UserError if any response has no record."""
    items = [item for group in groups for item in group.items]
    missing = [item for item in items if item not in cache]
    if missing:
        raise UserError(
            f"{where}: {len(missing)} of {len(items)} responses are not in {cache.folder}, such as {missing[0].id}; "
            "the cache knows other prompts, responses, another chat template or system message. Build it from these "
            f"records, or train on the cache's own ({_OWN})"
        )


def _header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    if not path.is_file():
        raise UserError(f"{folder}: no {HEADER} in it; give a folder that `grkd cache build` made")
    found: Mapping[str, Any] = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path}: it describes no cache of ranks; give a folder that `grkd cache build` made")
    if found["version"] > VERSION:
        raise UserError(f"{path}: version {found['version']} of the format is newer than {VERSION}; update grkd")
    codec = found["codec"]
    if found["version"] < 3 and codec["choose"] == "sample" and codec["log_probs"]:
        raise UserError(
            f"{path}: samples were stored in another way in version {found['version']} of the format; {_CURE}"
        )
    return found


def _short(value: Any) -> str:
    return f"{value[:12]} ..." if isinstance(value, str) and len(value) > 40 else repr(value)
