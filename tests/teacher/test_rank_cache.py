"""A cache of ranks: responses found by their content, shards that survive a kill, mistakes in one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd.data.language import Group, Item, collate, response_logits
from grkd.errors import UserError
from grkd.files import read_json, write_json
from grkd.teacher import rank_build
from grkd.teacher.rank_build import fill, with_share
from grkd.teacher.rank_cache import HEADER, Origin, RankCache, content_key
from grkd.teacher.rank_codec import RankCodec, joined
from grkd.teacher.rank_draws import candidates_of

ORIGIN = Origin(teacher="t", weights="w", vocabulary="v", template="c", prompts="p")
ITEMS = [Item(f"train/{n}#0", [4, 5 + n], [6 + n, 7, 3][: 1 + n % 3]) for n in range(7)]
GROUPS = [
    Group(id=item.id.split("#")[0], items=(item,), teacher_scores=(0.0,), sources=("data",)) for item in ITEMS
]  # fmt: skip


@pytest.fixture
def teacher(tiny_teacher: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_teacher).eval()


def made(folder: Path, teacher: Any, **options: Any) -> RankCache:
    codec = RankCodec(vocabulary=40, entries=5, **{"log_probs": True, **options})
    codec = with_share(codec, teacher, GROUPS, temperature=1.0, batch_size=3)
    cache = RankCache.begun(folder, codec, ORIGIN)
    fill(cache, teacher, GROUPS, batch_size=2)
    cache.finish()
    return RankCache(folder)


def test_a_killed_build_goes_on(tmp_path: Path, teacher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the second shard's texts were written, its records not: the same records as of a build at once."""
    monkeypatch.setattr(rank_build, "_RESPONSES_PER_SHARD", 3)
    whole = made(tmp_path / "whole", teacher, choose="sample")
    calls: list[Any] = []

    class Killed(Exception):
        pass

    original = rank_build._records

    def dies(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(rank_build, "_records", dies)
    with pytest.raises(Killed):
        made(tmp_path / "killed", teacher, choose="sample")
    with pytest.raises(UserError, match="the cache is not complete; give its `grkd cache build` again"):
        RankCache(tmp_path / "killed")
    monkeypatch.setattr(rank_build, "_records", original)
    again = made(tmp_path / "killed", teacher, choose="sample")
    assert list(again.records) == list(whole.records)
    assert all(torch.equal(again.records[key], whole.records[key]) for key in whole.records)
    assert [group.items for group in again.groups("train")] == [group.items for group in GROUPS]
    assert list(again.problems()) == []
    assert again.codec.share == whole.codec.share
    about, tokens = again.described(), sum(len(item.response_ids) for item in ITEMS)
    assert (about["tokens"], again.header["tokens"]) == (str(tokens), tokens)
    assert about["per token"].startswith("5 sampled candidates on average, at most 20, one for at most ")
    stored = sum(len(again.records[key]) for key in again.records)
    assert about["bytes per token"] == f"{stored / tokens:.3g}"
    torch.testing.assert_close(again.rows(ITEMS[:3])[0], joined([again[ITEMS[0]], again.rows(ITEMS[:3])])[0])


def test_a_killed_build_goes_on_in_its_own_order_alone(
    tmp_path: Path, teacher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of data in another order a shard would be written over, and what it held were lost."""
    monkeypatch.setattr(rank_build, "_RESPONSES_PER_SHARD", 3)
    cache = RankCache.begun(tmp_path, RankCodec(vocabulary=40, entries=5), ORIGIN)
    fill(cache, teacher, GROUPS[:1], batch_size=2)
    with pytest.raises(UserError, match=r"ranks-000000.safetensors: it holds other items .*; delete it and give"):
        fill(cache, teacher, GROUPS[::-1], batch_size=2)
    assert list(RankCache(tmp_path, writing=True).records) == [content_key(item) for item in GROUPS[0].items]


def test_a_response_is_found_by_its_content(tmp_path: Path, teacher: Any) -> None:
    cache = made(tmp_path, teacher)
    item = ITEMS[4]
    with torch.no_grad():
        scores = response_logits(teacher, collate([item], pad_token_id=0))[0]
    expected = candidates_of(scores, cache.codec)
    found = cache.codec.decode(cache[replace(item, id="another name")])
    assert torch.equal(found.ids, expected.ids)
    assert replace(item, response_ids=[9]) not in cache
    assert [group.items for group in cache.groups("train")] == [group.items for group in GROUPS]
    assert cache.groups("heldout") == []


def test_mistakes_are_one_line(tmp_path: Path, teacher: Any) -> None:
    cache = made(tmp_path / "cache", teacher)
    with pytest.raises(UserError, match=r"made with weights 'w', now it is 'x'; delete it"):
        RankCache.begun(cache.folder, cache.codec, replace(ORIGIN, weights="x"))
    with pytest.raises(UserError, match="made with entries 5, now it is 6"):
        RankCache.begun(cache.folder, replace(cache.codec, entries=6), ORIGIN)
    with pytest.raises(UserError, match=r"no cache\.json in it"):
        RankCache(tmp_path)
    header = read_json(cache.folder / HEADER)
    for changed, message in (
        ({"version": 4}, "newer than 3; update grkd"),
        (
            {"version": 2, "codec": {**header["codec"], "choose": "sample"}},
            "stored in another way in version 2 .*; delete it",
        ),
        ({"format": "x"}, "describes no cache"),
    ):
        (tmp_path / "other").mkdir(exist_ok=True)
        write_json(tmp_path / "other" / HEADER, {**header, **changed})
        with pytest.raises(UserError, match=message):
            RankCache(tmp_path / "other")
    earlier = {name: value for name, value in header["codec"].items() if name != "share"}
    write_json(cache.folder / HEADER, {**header, "version": 2, "codec": earlier})  # of the top it is read
    assert torch.equal(RankCache(cache.folder)[ITEMS[0]], cache[ITEMS[0]])
    path = next(cache.folder.glob("ranks-*"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert list(RankCache(cache.folder).problems()) == [f"{path.name} (altered)"]
    with pytest.raises(UserError, match="entries must be between 2 and the 40 candidates"):
        RankCodec(vocabulary=40, entries=41)
