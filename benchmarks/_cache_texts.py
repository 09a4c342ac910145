"""The teacher's answers to the demo's prompts as texts of one length, and what a cache keeps of their tokens."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks._cache_forms import FORMS, Form
from grkd import demo
from grkd.data.chat import encode_prompt
from grkd.data.prompts import Example
from grkd.files import read_json, write_json
from grkd.models.generate import generate_responses
from grkd.teacher.rank_codec import RankCodec
from grkd.teacher.rank_draws import candidates_of, fitting_share, likeliest_masses

_MARK = "MARK"
_TEXTS_AT_A_TIME = {"cpu": 8, "cuda": 48}
_ROWS = 1024  # written at a time
_TOKENS_LOOKED_AT = 4096  # for the share of a sample, as `grkd cache build` does


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
    """records-N.pt per form that stores any: [texts, tokens, bytes], as `grkd cache build` draws them.

    records-N.json: a sample's share, and the bytes per token that a cache would store.
    """
    device = teacher.device
    codecs = {
        name: codec
        for name in names
        if not path_of(folder, name).exists() and (codec := _codec(FORMS[name], teacher, texts, tokens)) is not None
    }
    if not codecs:
        return
    parts: dict[str, list[Tensor]] = {name: [] for name in codecs}
    draws, rounding = torch.Generator(device).manual_seed(1), torch.Generator().manual_seed(2)
    for rows in texts.split(_TEXTS_AT_A_TIME[device.type]):
        scores = scores_of(teacher, rows.to(device), tokens)
        for name, codec in codecs.items():
            records = codec.encode(candidates_of(scores, codec, generator=draws), generator=rounding)
            parts[name].append(records.view(len(rows), tokens, -1))
    for name, parts_of_form in parts.items():
        records, codec = torch.cat(parts_of_form), codecs[name]
        stored_bytes = sum(codec.pack(rows).numel() for rows in records) / records[..., 0].numel()
        about = {"form": name, "share": codec.share, "bytes_per_token": round(stored_bytes, 1)}
        write_json(path_of(folder, name).with_suffix(".json"), about)
        torch.save(records, path_of(folder, name))


def _codec(form: Form, teacher: Any, texts: Tensor, tokens: int) -> RankCodec | None:
    """As the form says; a sample's share by the first texts."""
    vocabulary = teacher.config.vocab_size
    codec = form.codec(vocabulary)
    if codec is None or not codec.is_weighted_sample:
        return codec
    masses = []
    for rows in texts[: -(-_TOKENS_LOOKED_AT // tokens)].split(_TEXTS_AT_A_TIME[teacher.device.type]):
        scores = scores_of(teacher, rows.to(teacher.device), tokens)
        masses.append(likeliest_masses(scores, number=replace(codec, share=1.0).largest, temperature=1.0))
    return replace(codec, share=fitting_share(torch.cat(masses), entries=codec.entries))


def path_of(folder: Path, name: str) -> Path:
    return folder / f"records-{list(FORMS).index(name)}.pt"


def stored(folder: Path, name: str, form: Form, vocabulary: int) -> tuple[Tensor | None, RankCodec | None]:
    """The records of a form and what reads them, None if the teacher runs in every step."""
    if form.entries is None:
        return None, None
    share = read_json(path_of(folder, name).with_suffix(".json"))["share"]
    return torch.load(path_of(folder, name)), form.codec(vocabulary, share)


def sample_bytes(folder: Path) -> dict[str, float]:
    """Bytes per token of the samples that are stored in a folder, by form."""
    found = [read_json(path) for path in sorted(folder.glob("records-*.json"))]
    return {each["form"]: each["bytes_per_token"] for each in found if each["share"] is not None}
