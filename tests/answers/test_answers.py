"""Answers: against a plain greedy loop, generated once, stored as they come, taken up after a kill."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grkd.answers import local as module
from grkd.answers.local import LocalModel
from grkd.answers.question import Question, Sampling, Text
from grkd.answers.remote import RemoteModel
from grkd.answers.stored import answer
from grkd.endpoint.client import Endpoint
from grkd.errors import UserError

QUESTIONS = [
    Question(id="one", turns=("w1 w2 w3", "w4")),
    Question(id="two", turns=("w5", "w6 w7")),
    Question(id="three", turns=("w8 w9",)),
]
SAMPLING = Sampling(max_new_tokens=5)


def local(folder: Path, **changes: Any) -> LocalModel:
    return LocalModel(str(folder), device=torch.device("cpu"), dtype=torch.float32, **{"batch_size": 2, **changes})


def texts(found: dict[str, list[Text]]) -> dict[str, list[str]]:
    return {name: [text.text for text in turns] for name, turns in found.items()}


def plain_greedy(folder: Path, turns: tuple[str, ...], *, tokens: int) -> list[str]:
    """The conversation without batches, padding or generate: argmax of the logits, one token after another."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    messages: list[dict[str, str]] = []
    said = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
        start = len(ids)
        while len(ids) == start or (len(ids) < start + tokens and ids[-1] != tokenizer.eos_token_id):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        said.append(tokenizer.decode(ids[start:]).removesuffix(tokenizer.eos_token).strip())
        messages.append({"role": "assistant", "content": said[-1]})
    return said


def test_two_turns_as_a_plain_greedy_loop_gives_them(tiny_teacher: Path, tmp_path: Path) -> None:
    found = answer(local(tiny_teacher), QUESTIONS, sampling=SAMPLING, store=tmp_path / "a.jsonl")
    wanted = {question.id: plain_greedy(tiny_teacher, question.turns, tokens=5) for question in QUESTIONS}
    assert texts(found) == wanted
    assert any(text for turns in wanted.values() for text in turns)


def test_variables_of_the_chat_template_reach_it_and_are_part_of_the_identity(tiny_teacher: Path) -> None:
    plain, asked = local(tiny_teacher), local(tiny_teacher, template_options={"mood": "w7"})
    asked.tokenizer.chat_template = "{{ messages[0]['content'] }}{% if mood %} {{ mood }}{% endif %}"
    messages = [{"role": "user", "content": "w1"}]
    assert asked.tokenizer.convert_ids_to_tokens(asked._encoded(messages)) == ["w1", "w7"]
    assert asked.identity == {**plain.identity, "chat_template_kwargs": {"mood": "w7"}}


def test_every_answer_is_stored_with_its_prompt_and_cost(tiny_teacher: Path, tmp_path: Path) -> None:
    found = answer(local(tiny_teacher), QUESTIONS, sampling=SAMPLING, store=tmp_path / "a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    second = next(line for line in lines if (line["id"], line["turn"]) == ("one", 2))
    assert [message["content"] for message in second["messages"]] == ["w1 w2 w3", found["one"][0].text, "w4"]
    assert second["text"] == found["one"][1].text
    assert second["tokens"] > 0
    assert second["prompt_tokens"] > 3
    assert second["seconds"] >= 0


def test_stored_answers_are_not_generated_again(
    tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "a.jsonl"
    first = answer(local(tiny_teacher), QUESTIONS, sampling=SAMPLING, store=store)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("generated again")

    monkeypatch.setattr(module, "generate_responses", never)
    assert answer(local(tiny_teacher), QUESTIONS, sampling=SAMPLING, store=store) == first
    shutil.copytree(tiny_teacher, tmp_path / "moved")
    assert answer(local(tmp_path / "moved"), QUESTIONS, sampling=SAMPLING, store=store) == first
    with pytest.raises(AssertionError, match="generated again"):
        answer(local(tiny_teacher), QUESTIONS, sampling=Sampling(max_new_tokens=6), store=store)


def test_another_model_at_the_same_path_answers_anew(tiny_teacher: Path, tmp_path: Path) -> None:
    folder, store = tmp_path / "student", tmp_path / "a.jsonl"
    shutil.copytree(tiny_teacher, folder)
    first = texts(answer(local(folder), QUESTIONS, sampling=SAMPLING, store=store))
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.neg_()
    model.save_pretrained(folder)
    second = texts(answer(local(folder), QUESTIONS, sampling=SAMPLING, store=store))
    assert second != first
    assert second["one"] == plain_greedy(folder, QUESTIONS[0].turns, tokens=5)


@pytest.mark.parametrize("killed_after", [1, 2, 3, 4])
def test_a_run_taken_up_samples_the_same_texts(tiny_teacher: Path, tmp_path: Path, killed_after: int) -> None:
    sampled = [Question(id=str(n), turns=(f"w{n} w{n + 1}",), temperature=1.0) for n in range(5)]
    whole = answer(local(tiny_teacher), sampled, sampling=SAMPLING, store=tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines[:killed_after]) + lines[killed_after][:20])
    again = answer(local(tiny_teacher), sampled, sampling=SAMPLING, store=cut)
    assert texts(again) == texts(whole)
    assert len(cut.read_bytes().splitlines()) == 5
    other = answer(local(tiny_teacher), sampled, sampling=Sampling(max_new_tokens=5, seed=1), store=cut)
    assert texts(other) != texts(whole)


def test_a_prompt_that_leaves_no_room_gets_an_empty_answer(tiny_teacher: Path, tmp_path: Path) -> None:
    long = Question(id="long", turns=(" ".join(["w1"] * 70),))  # the context holds 64 tokens
    near = Question(id="near", turns=(" ".join(["w1"] * 57),))  # and its template takes 5
    found = answer(local(tiny_teacher), [long, near], sampling=SAMPLING, store=tmp_path / "a.jsonl")
    assert (found["long"][0].text, found["long"][0].too_long) == ("", True)
    assert not found["near"][0].too_long
    assert 0 < found["near"][0].tokens <= 2


def test_a_long_prompt_does_not_cut_its_neighbours_answer(tiny_teacher: Path, tmp_path: Path) -> None:
    """The context holds 64 tokens; 57 words and the template leave 2."""
    near = Question(id="near", turns=(" ".join(["w1"] * 57),))
    short = Question(id="short", turns=("w5",))
    together = answer(local(tiny_teacher), [near, short], sampling=SAMPLING, store=tmp_path / "a.jsonl")
    alone = answer(local(tiny_teacher), [short], sampling=SAMPLING, store=tmp_path / "b.jsonl")
    assert together["short"][0].tokens == alone["short"][0].tokens > 2
    assert together["short"][0].text == plain_greedy(tiny_teacher, short.turns, tokens=5)[0]
    assert together["near"][0].tokens <= 2


def test_a_missing_folder_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        local(tmp_path / "absent")


def remote(server: Any, **changes: Any) -> RemoteModel:
    endpoint = Endpoint(server.url, "student", role="model", backoff_seconds=0.01, retries=1)
    return RemoteModel(endpoint, **{"concurrency": 2, **changes})


def test_answers_of_an_endpoint(server: Any, tmp_path: Path) -> None:
    found = answer(remote(server), QUESTIONS, sampling=SAMPLING, store=tmp_path / "a.jsonl")
    assert texts(found)["one"] == ["answer to w1 w2 w3", "answer to w4"]
    assert len(server.asked) == 5
    second = next(body for body in server.asked if body["messages"][-1]["content"] == "w4")
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert not {"seed", "top_p"} & second.keys()
    answer(remote(server), QUESTIONS, sampling=SAMPLING, store=tmp_path / "a.jsonl")
    assert len(server.asked) == 5
    sampled = [Question(id="four", turns=("w5",), temperature=0.7)]
    answer(remote(server), sampled, sampling=Sampling(max_new_tokens=5, top_p=0.9), store=tmp_path / "a.jsonl")
    answer(remote(server), sampled, sampling=SAMPLING, store=tmp_path / "a.jsonl")
    # Said also if it is 1: a server's own default may be another.
    assert [body["top_p"] for body in server.asked[5:]] == [0.9, 1.0]


def test_an_endpoint_that_goes_down_keeps_what_it_answered(server: Any, tmp_path: Path) -> None:
    many = [Question(id=str(n), turns=(f"w{n}",)) for n in range(6)]
    server.faults = ["", "", "500", "500", "500", "500", "500", "500"]
    with pytest.raises(UserError, match=r"model: .*gives no answer: .*answers so far are kept"):
        answer(remote(server), many, sampling=SAMPLING, store=tmp_path / "a.jsonl")
    stored = len((tmp_path / "a.jsonl").read_text().splitlines())
    assert stored == len(server.answered) >= 2
    server.faults = []
    found = answer(remote(server), many, sampling=SAMPLING, store=tmp_path / "a.jsonl")
    assert len(found) == len(server.answered) == 6


def test_a_prompt_too_long_for_an_endpoint_gets_an_empty_answer(server: Any, tmp_path: Path) -> None:
    server.faults = ["too long"]
    found = answer(remote(server, concurrency=1), QUESTIONS[2:], sampling=SAMPLING, store=tmp_path / "a.jsonl")
    assert found["three"][0].too_long
