"""Language models as teachers of lists: permutations by windows, yes or no, in this process and behind an API."""

import json
import random
import re
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from grkd.data.chat import stop_token_ids
from grkd.errors import UserError
from grkd.lists import language_models
from grkd.lists.check import check_rank
from grkd.lists.listwise import answer_tokens, messages_of, permutation, permuted, windows
from grkd.lists.prepare import prepare
from grkd.lists.score import given, score, teacher_scores
from grkd.lists.teachers import scored_by
from tests._endpoint_server import EndpointServer
from tests.lists._toys import context, recipe, write_lists

SERVED = "teacher.served={{url: {url}, model: ranker}}"


def by_number(body: dict[str, Any]) -> str:
    """A ranker that puts the shortest passage first."""
    passages = re.findall(r"^\[(\d+)\] (.*)$", body["messages"][-1]["content"], re.MULTILINE)
    ordered = sorted(passages, key=lambda one: (len(one[1]), one[1]))
    return " > ".join(f"[{number}]" for number, _ in ordered)


def test_windows_cover_a_list_from_its_end() -> None:
    assert windows(5, 20, 10) == [(0, 5)]
    assert windows(32, 20, 10) == [(12, 32), (2, 22), (0, 20)]
    assert windows(30, 20, 10) == [(10, 30), (0, 20)]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("[2] > [1] > [3]", [1, 0, 2]),
        ("The best is 3, then 1.", [2, 0, 1]),
        ("[3] > [3] > [9] > [1]", [2, 0, 1]),
        ("<think>[1] looks good</think>[2] > [3] > [1]", [1, 2, 0]),
        ("The order of the 3 passages is: [2] > [1] > [3]", [1, 0, 2]),
        ("1. [3]\n2. [1]\n3. [2]", [2, 0, 1]),
        ("<think>[1] is about 2 birds, and [3]", None),
        ("I cannot say.", None),
    ],
)
def test_answers_are_read_as_permutations(answer: str, expected: list[int] | None) -> None:
    assert permutation(answer, 3) == expected


def test_a_right_ranker_brings_the_best_to_the_top() -> None:
    candidates = [str(number) for number in random.Random(0).sample(range(10, 60), 30)]

    def complete(prompts: Sequence[Any]) -> list[str]:
        found = []
        for messages in prompts:
            passages = re.findall(r"^\[(\d+)\] (\d+)$", messages[0]["content"], re.MULTILINE)
            found.append(" > ".join(number for number, _ in sorted(passages, key=lambda one: -int(one[1]))))
        return found

    lists = [("high numbers", candidates), ("high numbers", candidates[:4])]
    orders, unread = permuted(lists, complete, window=10, stride=5)
    assert unread == 0
    ranked = [candidates[one] for one in orders[0]]
    assert ranked[:5] == sorted(candidates, reverse=True)[:5]  # what one pass of the windows promises
    assert sorted(orders[0]) == list(range(30))
    assert [candidates[one] for one in orders[1]] == sorted(candidates[:4], reverse=True)
    kept, unread = permuted(lists, lambda prompts: [None for _ in prompts], window=10, stride=5)
    assert kept == [list(range(30)), list(range(4))]
    assert unread == 6


def test_a_served_model_writes_permutations_that_are_asked_for_once(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists.jsonl", count=3)
    write_lists(tmp_path / "heldout.jsonl", count=2, seed=2)
    with closing(EndpointServer(by_number, models=["ranker"])) as server:
        options = ["teacher.asks=permutation", "teacher.window=4", "teacher.stride=2", "methods=[plackett_luce]"]
        here = context(tmp_path, SERVED.format(url=server.url), *options)
        check_rank(here)
        assert not (tmp_path / "run" / "teacher").exists()  # a check writes nothing
        prepare(here)
        score(here)
        found, asked = teacher_scores(here), len(server.asked)
        assert given(here.recipe, "scores") == "order"
        for row, exists in enumerate(here.lists.exists):
            texts = [here.lists.documents[one] for one in here.lists.candidates[row, exists].tolist()]
            ranked = [texts[one] for one in found[row, exists].argsort(descending=True).tolist()]
            assert ranked[:2] == sorted(texts, key=lambda one: (len(one), one))[:2]
        again = context(tmp_path, SERVED.format(url=server.url), *options, "device=cpu", "seeds=[7]")
        prepare(again)  # another run of the stage: the answers are kept
        score(again)
        assert len(server.asked) == asked
    with pytest.raises(UserError, match="needs the teacher's scores, and the teacher gives an order"):
        check_rank(context(tmp_path, SERVED.format(url=server.url), "teacher.asks=permutation", "methods=[kd]"))


def test_a_served_model_says_yes_or_no(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists.jsonl", count=2)
    write_lists(tmp_path / "heldout.jsonl", count=2, seed=2)

    def reply(body: dict[str, Any]) -> str:
        return "Yes" if "wing" in body["messages"][0]["content"] else "No"

    with closing(EndpointServer(reply, models=["ranker"])) as server:
        here = context(tmp_path, SERVED.format(url=server.url), "teacher.prompt='{document} {query}'")
        prepare(here)
        score(here)
        found = teacher_scores(here)
        for row, column in here.lists.exists.nonzero().tolist():
            text = here.lists.documents[here.lists.candidates[row, column]] + here.lists.queries[row]
            assert found[row, column] == float("wing" in text)
        assert found[~here.lists.exists].isnan().all()
        server.logprobs = [(" Yes", -0.5), ("No", -1.25), ("yes", -3.0), ("Maybe", -4.0)]
        here = context(tmp_path, SERVED.format(url=server.url), "teacher.prompt='{query} {document}'")
        score(here)
        known = teacher_scores(here)[here.lists.exists]
        assert known.tolist() == pytest.approx([0.75] * len(known))


def roomy(teacher: Path, folder: Path) -> str:
    """The tiny teacher with a context of 512 tokens."""
    shutil.copytree(teacher, folder)
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | {"max_position_embeddings": 512}))
    return str(folder)


def test_a_model_in_this_process_writes_permutations(tmp_path: Path, tiny_teacher: Path) -> None:
    write_lists(tmp_path / "lists.jsonl", count=2)
    write_lists(tmp_path / "heldout.jsonl", count=1, seed=2)
    here = context(tmp_path, "teacher.asks=permutation", "teacher.batch_size=2")
    prepare(here)
    name = roomy(tiny_teacher, tmp_path / "model")
    found = scored_by(here, name)
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name).eval()
    for row, exists in enumerate(here.lists.exists):
        texts = [here.lists.documents[one] for one in here.lists.candidates[row, exists].tolist()]
        messages = messages_of(here.lists.queries[row], texts)
        options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        inputs = tokenizer.apply_chat_template(messages, **options)
        with torch.no_grad():
            written = model.generate(**inputs, max_new_tokens=answer_tokens(20), do_sample=False)
        answer = tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        order = permutation(answer, len(texts)) or list(range(len(texts)))
        assert (-found[row, exists]).argsort().tolist() == order
        assert found[row, exists].sort().values.tolist() == [-float(n) for n in reversed(range(len(texts)))]


def test_permutations_are_written_greedily(tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever settings for chats the model publishes (Qwen2.5: a repetition penalty, which counts the prompt too)."""
    name = roomy(tiny_teacher, tmp_path / "model")
    published = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "do_sample": True, "temperature": 9.0}
    GenerationConfig(eos_token_id=3, **published).save_pretrained(name)
    asked = [messages_of("w1 w2", ["w3 w4", "w5"]), messages_of("w6", ["w7", "w8 w9 w1"]), messages_of("w2", ["w1"])]
    write_lists(tmp_path / "lists.jsonl", count=2)
    write_lists(tmp_path / "heldout.jsonl", count=1, seed=2)
    here = context(tmp_path, "teacher.asks=permutation", "teacher.batch_size=2")
    prepare(here)
    found: list[str] = []
    monkeypatch.setattr(language_models, "permuted", lambda _, complete, **__: (found.extend(complete(asked)) or [], 0))
    language_models.written_orders(here, name)
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name).eval()
    model.generation_config = GenerationConfig(max_new_tokens=answer_tokens(20), eos_token_id=stop_token_ids(tokenizer))
    for messages, text in zip(asked, found, strict=True):
        options = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        inputs = tokenizer.apply_chat_template(messages, **options)
        written = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        assert text == tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize("asks", ["yes_no", "permutation"])
def test_models_are_opened_as_everywhere_else(tmp_path: Path, tiny_teacher: Path, asks: str) -> None:
    """Soft caps are applied, and files that lack weights are refused: they would be random."""
    write_lists(tmp_path / "lists.jsonl", count=2)
    write_lists(tmp_path / "heldout.jsonl", count=1, seed=2)
    here = context(tmp_path, f"teacher.asks={asks}")
    prepare(here)
    weights = load_file(tiny_teacher / "model.safetensors")
    shutil.copytree(tiny_teacher, tmp_path / "model")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"its files lack 1 tensor \(model\.layers\.1\.mlp\.up_proj\.weight"):
        scored_by(here, str(tmp_path / "model"))


def test_prompts_stay_within_the_context_of_a_model_in_this_process(
    tmp_path: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lists(tmp_path / "lists.jsonl", count=2)
    write_lists(tmp_path / "heldout.jsonl", count=1, seed=2)
    here = context(tmp_path, "teacher.asks=permutation", "teacher.window=4", "teacher.stride=2")
    prepare(here)
    said = r"a prompt of \d+ tokens and an answer of 48 are beyond its context of 64; lower teacher\.window \(it is 4\)"
    with pytest.raises(UserError, match=said):
        scored_by(here, str(tiny_teacher))
    lengths: list[int] = []

    def logits(model: Any, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        lengths.extend(map(len, prompts))
        return torch.zeros(len(prompts), 40)

    monkeypatch.setattr(language_models, "next_logits", logits)
    monkeypatch.setattr(language_models, "yes_and_no", lambda *_: ([5], 6, 7))
    here = context(tmp_path, "teacher.max_tokens=200", f"teacher.prompt='{'w1 ' * 60}{{query}} {{document}}'")
    scored_by(here, str(tiny_teacher))
    assert max(lengths) <= 64


def test_what_a_recipe_may_not_say(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists.jsonl", count=2)
    for override, text in (
        ("teacher.served={url: nowhere, model: m}", "teacher.served.url"),
        ("teacher={window: 4, stride: 5}", "stride: is above teacher.window"),
        ("teacher={asks: permutation, prompt: '{query} {document}'}", "prompt: belongs to asks: yes_no"),
    ):
        with pytest.raises(UserError, match=re.escape(text)):
            recipe(tmp_path, override)
