"""The teacher's answers to the demo's prompts as texts of one length, and what a cache keeps of their tokens."""

import json
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._cache_forms import FORMS, Form
from grkd import demo
from grkd.data.chat import encode_prompt
from grkd.data.prompts import Example
from grkd.models.generate import generate_responses
from grkd.teacher.rank_draws import candidates_of

_MARK = "MARK"
_TEXTS_AT_A_TIME = {"cpu": 8, "cuda": 48}
_ROWS = 1024  # written at a time


def prompts(tokenizer: Any, file: str) -> list[list[int]]:
    """The demo's prompts as the user's part of a conversation."""
    lines = (Path(demo.__file__).parent / file).read_text(encoding="utf-8").splitlines()
    return [encode_prompt(tokenizer, Example(id=line, prompt=json.loads(line)["prompt"])) for line in lines]


def opening(tokenizer: Any) -> int:
    """Tokens of a conversation before the user's own words."""
    text = tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
    return len(tokenizer(text.partition(_MARK)[0], add_special_tokens=False)["input_ids"])


def written(teacher: Any, tokenizer: Any, file: str, *, texts: int, tokens: int, seed: int) -> Tensor:
    """[texts, opening + tokens]: prompts, one after the other and again, and the teacher's answers at temperature 1.

    An answer that ends is followed by what the teacher writes next, so that all texts have one length.
    """
    asked = list(islice(cycle(prompts(tokenizer, file)), texts))
    length, found = opening(tokenizer) + tokens, {}
    for part in generate_responses(
        teacher,
        asked,
        max_new_tokens=tokens,
        temperature=1.0,
        top_p=1.0,
        stop_ids=[],
        pad_token_id=0,
        seed=seed,
        batch_size=_ROWS,
    ):
        found |= {each.index: [*asked[each.index], *each.response_ids][:length] for each in part}
    return torch.tensor([found[at] for at in range(texts)])


def scores_of(model: Any, texts: Tensor, tokens: int, *, exact: bool = False) -> Tensor:
    """Scores of the last `tokens` of each text, [texts * tokens, vocabulary], float32.

    The layers compute in bfloat16 on a GPU, unless `exact`.
    """
    with torch.autocast("cuda", torch.bfloat16, enabled=texts.is_cuda and not exact):
        hidden = model.model(texts).last_hidden_state
    head = model.get_output_embeddings().weight
    return torch.nn.functional.linear(hidden[:, -tokens - 1 : -1].flatten(0, 1).float(), head)


@torch.no_grad()
def store_records(teacher: Any, texts: Tensor, tokens: int, folder: Path, names: Sequence[str]) -> None:
    """records-N.pt per form that stores any: [texts, tokens, bytes], as `grkd cache build` draws and packs them."""
    vocabulary, device = teacher.config.vocab_size, teacher.device
    missing = {name: FORMS[name].codec(vocabulary) for name in names if not path_of(folder, name).exists()}
    codecs = {name: codec for name, codec in missing.items() if codec is not None}
    if not codecs:
        return
    parts: dict[str, list[Tensor]] = {name: [] for name in codecs}
    draws, rounding = torch.Generator(device).manual_seed(1), torch.Generator().manual_seed(2)
    for rows in texts.split(_TEXTS_AT_A_TIME[device.type]):
        scores = scores_of(teacher, rows.to(device), tokens)
        for name, codec in codecs.items():
            records = codec.encode(candidates_of(scores, codec, generator=draws), generator=rounding)
            parts[name].append(records.view(len(rows), tokens, -1))
    for name, records in parts.items():
        torch.save(torch.cat(records), path_of(folder, name))


def path_of(folder: Path, name: str) -> Path:
    return folder / f"records-{list(FORMS).index(name)}.pt"


def stored(folder: Path, name: str, form: Form) -> Tensor | None:
    """The records of a form, None if the teacher runs in every step."""
    return None if form.entries is None else torch.load(path_of(folder, name))
