"""Words of a text by hash: no vocabulary. This file lies in a student's folder too, so it imports no grkd."""

import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from torch import Tensor, nn

_WORD = re.compile(r"\w+")


class HashedWords(InputModule):
    """The mean of the embeddings of a text's words; a word's row is its CRC-32 modulo the number of rows.

    buckets: rows. Row 0 is that of a text without words; several words may share another. weights: [buckets,
    dimensions]; None: zeros, to be loaded.
    """

    config_keys = ["buckets", "dimensions"]  # noqa: RUF012  (as its base class has it)

    def __init__(self, buckets: int, dimensions: int, weights: Tensor | None = None) -> None:
        super().__init__()
        self.buckets, self.dimensions = buckets, dimensions
        rows = torch.zeros(buckets, dimensions) if weights is None else weights
        self.embedding = nn.EmbeddingBag.from_pretrained(rows, freeze=False, padding_idx=0)

    def ids(self, text: str) -> list[int]:
        """Rows of the text's words, upper case read as lower."""
        return [self.row(word) for word in _WORD.findall(text.lower())] or [0]

    def row(self, word: str) -> int:
        """From 1 to buckets - 1; the same on every machine."""
        return 1 + zlib.crc32(word.encode()) % (self.buckets - 1)

    def preprocess(self, inputs: list[str], prompt: str | None = None, **_: Any) -> dict[str, Tensor]:
        rows = [self.ids((prompt or "") + text) for text in inputs]
        lengths = torch.tensor([0, *map(len, rows)])
        return {"input_ids": torch.tensor([one for row in rows for one in row]), "offsets": lengths.cumsum(0)[:-1]}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        features["sentence_embedding"] = self.embedding(features["input_ids"], features["offsets"])
        return features

    @property
    def max_seq_length(self) -> float:
        return float("inf")

    def get_embedding_dimension(self) -> int:
        return self.dimensions

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)
        shutil.copyfile(__file__, Path(output_path) / Path(__file__).name)

    @classmethod
    def load(cls, model_name_or_path: str, **options: Any) -> "HashedWords":
        names = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
        of_hub = {name: options[name] for name in names if name in options}
        made = cls(**cls.load_config(model_name_or_path, **of_hub))
        cls.load_torch_weights(model_name_or_path, model=made, **of_hub)
        return made
