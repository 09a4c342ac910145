"""Any sequence-classification model as a ranker: a reward model, a cross-encoder, a classifier's label."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from grkd import hub
from grkd.errors import UserError
from grkd.groups import wide
from grkd.models.complete import check_complete
from grkd.models.load import context_length, known_config
from grkd.objectives import option
from grkd.rankers._base import Columns, Given, Need, Prompt, Prompts, Ranker, Resources, Responses, conversation

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(kw_only=True)
class RewardModel(Ranker):
    """The model's logit for the conversation with the response; of several labels that of `label`.

    A tokenizer with a chat template gets the conversation; without one, prompt and response as a pair of texts.
    Batches hold sequences of like length. A sequence longer than the model's context (or `longest`) has no score: a
    reward of half a response would be no reward of it.
    In Python `model` may be a loaded model, whose tokenizer is that of its name.
    Raises UserError for a model that cannot be loaded, and for several labels of which none is chosen.
    """

    needs: ClassVar[Need] = "device"

    model: Any = option(help="folder or hub name of a sequence-classification model")
    label: str | int | None = option(None, help="name or number of the label that is the score")
    longest: int | None = option(None, help="most tokens per sequence; null: the model's context")
    dtype: Dtype = option("auto", help="auto: float32 on a CPU, bfloat16 on a GPU")
    trust_remote_code: bool = option(False, help="run code that comes with the model")

    _network: Any = field(default=None, init=False, repr=False)
    _tokenizer: Any = field(default=None, init=False, repr=False)
    _place: int = field(default=0, init=False, repr=False)
    _batch_size: int = field(default=8, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | nn.Module):
            raise UserError(f"ranker reward_model: model must be a folder or hub name, got {self.model!r}"[:300])
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise UserError(
                f"ranker reward_model: unknown dtype {self.dtype!r}; use auto, float32, bfloat16 or float16"
            )

    @property
    def loaded(self) -> nn.Module | None:
        return self.model if isinstance(self.model, nn.Module) else None

    @property
    def place(self) -> str:
        """Folder or hub name of the model."""
        return self.model if isinstance(self.model, str) else str(getattr(self.model.config, "name_or_path", ""))

    def check(self) -> None:
        if self.loaded is None:
            known_config(self.model, trust_remote_code=self.trust_remote_code)

    def open(self, resources: Resources) -> None:
        if self.loaded is None:
            hub.look_for(self.model)
        auto = "bfloat16" if resources.device.type == "cuda" else "float32"
        dtype = getattr(torch, auto if self.dtype == "auto" else self.dtype)
        remote = {"trust_remote_code": self.trust_remote_code}
        try:
            config = AutoConfig.from_pretrained(self.model, **remote) if self.loaded is None else self.loaded.config
            self._place = self._label_place(config)
            self._tokenizer = AutoTokenizer.from_pretrained(self.place, **remote)
            if self.loaded is None:
                network, found = AutoModelForSequenceClassification.from_pretrained(
                    self.model, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **remote
                )
                check_complete(self.model, found)
            else:
                network = self.loaded
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            text = " ".join(str(error).split())[:200]
            raise UserError(
                f"ranker reward_model: {self.place} is not a sequence-classification model ({text})"
            ) from None
        self._network = network.to(resources.device).eval()
        self._batch_size = resources.batch_size

    @torch.no_grad()
    def score(self, prompts: Prompts, responses: Responses, columns: Columns) -> Given:
        if self._network is None:
            raise ValueError("open the ranker first")
        encoded = [
            self._encoded(prompt, text) for prompt, texts in zip(prompts, responses, strict=True) for text in texts
        ]
        limit = self.longest or context_length(self._network) or 1 << 30
        fitting = sorted(
            (at for at, one in enumerate(encoded) if len(one["input_ids"]) <= limit),
            key=lambda at: -len(encoded[at]["input_ids"]),
        )
        self.tally("too_long", len(encoded) - len(fitting))
        found: list[float | None] = [None] * len(encoded)
        for start in range(0, len(fitting), self._batch_size):
            chosen = fitting[start : start + self._batch_size]
            logits = self._logits([encoded[at] for at in chosen])
            for at, value in zip(chosen, logits, strict=True):
                if math.isnan(value):  # a fault of its numbers, no abstention
                    raise UserError(f"ranker reward_model: {self.place} gives NaN for a response; try dtype: float32")
                found[at] = value
        flat = iter(found)
        return [[next(flat) for _ in texts] for texts in responses]

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "model": _files(self.place)}

    def close(self) -> None:
        self._network = self._tokenizer = None

    def _label_place(self, config: Any) -> int:
        names = {int(place): str(name) for place, name in config.id2label.items()}
        if self.label is None and len(names) == 1:
            return 0
        for place, name in names.items():
            if self.label in (place, name):
                return place
        listed = ", ".join(names.values())
        problem = "has several labels" if self.label is None else f"has no label {self.label!r}"
        raise UserError(f"ranker reward_model: {self.place} {problem}; set label to one of: {listed}"[:400])

    def _encoded(self, prompt: Prompt, response: str) -> dict[str, list[int]]:
        if self._tokenizer.chat_template is None:
            text = prompt if isinstance(prompt, str) else "\n\n".join(turn["content"] for turn in prompt)
            return dict(self._tokenizer(text, response, verbose=False))
        turns = [*conversation(prompt), {"role": "assistant", "content": response}]
        text = self._tokenizer.apply_chat_template(turns, tokenize=False)
        return dict(self._tokenizer(text, add_special_tokens=False, verbose=False))

    def _logits(self, batch: list[dict[str, list[int]]]) -> list[float]:
        width = max(len(one["input_ids"]) for one in batch)
        used = {token for one in batch for token in one["input_ids"]}
        pad, end = self._tokenizer.pad_token_id, self._tokenizer.eos_token_id
        if pad is None or pad == end:
            # Decoders look for the last token that is not padding by its id, so padding must not be a real token.
            pad = next(token for token in range(len(used) + 1) if token not in used)
        self._network.config.pad_token_id = pad
        fill = {"input_ids": pad, "attention_mask": 0, "token_type_ids": 0}
        tensors = {
            name: torch.tensor([one[name] + [fill[name]] * (width - len(one[name])) for one in batch])
            for name in fill
            if all(name in one for one in batch)
        }
        device = self._network.device
        logits = self._network(**{name: value.to(device) for name, value in tensors.items()}).logits
        return [float(value) for value in wide(logits)[:, self._place]]


def _files(model: str) -> Any:
    """Names, sizes and times of change of a folder's files: large weights are not read for it. A hub name as it is."""
    files = sorted(path for path in Path(model).expanduser().glob("*") if path.is_file())
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files] or model


RANKER = RewardModel
