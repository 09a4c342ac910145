"""`grkd doctor --ask`: a served teacher and a judge, sound or with a fault planted; requests are counted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grkd import cli, recipe
from grkd.data.chat import encode_prompt
from grkd.data.prompts import Example
from grkd.doctor.examine import examine
from grkd.doctor.finding import Finding
from tests._endpoint_server import EndpointServer
from tests._model_server import ModelServer

pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")


@pytest.fixture(scope="module")
def running(tiny_teacher: Path) -> Iterator[ModelServer]:
    made = ModelServer(tiny_teacher)
    yield made
    made.close()


@pytest.fixture
def server(running: ModelServer) -> Iterator[ModelServer]:
    running.asked.clear()
    yield running
    running.faults, running.always = [], None


@pytest.fixture
def path(tmp_path: Path, tiny_teacher: Path, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    asked = [{"prompt": f"w{n} w{n + 1}", "completion": f"w{(5 * n) % 30} w3 w{n % 30}"} for n in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    made = tmp_path / "recipe.yaml"
    made.write_text(
        f"task: language_model\noutput: run\ndevice: cpu\nseeds: [0, 1, 2]\n"
        f"teacher: {{url: '{server.url}', served_model: s, tokenizer: {tiny_teacher}, log_probs: true}}\n"
        f"student: {{model: {tiny_teacher}}}\ndata: {{train: train.jsonl, heldout_fraction: 0.5}}\n"
        "responses: {source: data, max_new_tokens: 8}\nmethods: [kd]\ntraining: {epochs: 40, batch_size: 8}\n"
        "score: {signal: cache}\nevaluation: {top_k: 5}\n"
    )
    return made


def of(check: str, path: Path, *words: str, ask: bool = True) -> list[Finding]:
    every = examine(recipe.read(path, words), ask=ask)
    assert "recipe" not in [one.check for one in every], every
    return [one for one in every if one.check == check]


def test_each_of_several_teachers_is_asked(path: Path, server: ModelServer, tiny_teacher: Path) -> None:
    """Two served ones, of which the second names a model that its server has not, and one in this process."""
    first = f"{{url: '{server.url}', served_model: s, tokenizer: {tiny_teacher}, log_probs: true, label: one}}"
    other = first.replace("served_model: s", "served_model: none").replace("label: one", "label: two")
    words = f"teacher=[{first}, {other}, {{model: {tiny_teacher}, label: here}}]"
    unasked = [one.text.split(":")[0] for one in of("teacher", path, words, ask=False) if "not asked" in one.text]
    assert unasked == ["one", "two"]
    assert server.asked == []
    found = {one.text.split(":")[0]: one for one in of("teacher", path, words)}
    assert "answered 4 requests" in found["one"].text
    assert found["two"].severity == "error"
    assert "here" not in found


def test_nothing_is_asked_unasked_and_the_number_is_stated(path: Path, server: ModelServer) -> None:
    (told,) = of("teacher", path, ask=False)
    assert "4 short requests" in told.text
    assert server.asked == []


def test_a_sound_server_is_let_through(path: Path, server: ModelServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(path), "--ask", "--json"]) == 0
    (told,) = [one for one in json.loads(capsys.readouterr().out) if one["check"] == "teacher"]
    assert (told["severity"], told["text"]) == ("note", "the server answered 4 requests")
    assert len(server.asked) == 3  # and one for the list of models


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no field", "gives no prompt_logprobs"),
        ("fewer", "cuts or extends prompts"),
        ("other vocabulary", "token"),
        ("other model", "set teacher.served_model"),
    ],
)
def test_a_server_that_reads_otherwise_is_found(fault: str, said: str, path: Path, server: ModelServer) -> None:
    server.always = fault
    (found,) = of("teacher", path)
    assert found.severity == "error"
    assert said in found.text


def test_a_template_of_the_server_is_found_by_its_tokens(path: Path, server: ModelServer) -> None:
    """Chats are counted by the server: as many as here, or a system message more."""
    more = 0

    def chat(self: Any, body: dict[str, Any]) -> dict[str, Any]:
        ids = encode_prompt(server.tokenizer, Example(id="x", prompt=body["messages"][-1]["content"]))
        found: dict[str, Any] = EndpointServer._completion(self, body)
        return {**found, "usage": {"prompt_tokens": len(ids) + more, "completion_tokens": 1, "total_tokens": 2}}

    words = ("teacher.log_probs=false", "methods=[seqkd]", "responses.source=teacher", "score={}")
    real = ModelServer._completion
    server._completion = chat.__get__(server)  # type: ignore[method-assign]
    try:
        assert of("template", path, *words) == []
        more = 5
        (found,) = of("template", path, *words)
    finally:
        server._completion = real.__get__(server)  # type: ignore[method-assign]
    assert "another template" in found.text
    assert len(server.asked) == 2 * (1 + 2)  # one chat, and as a judge one group in both orders


@pytest.mark.parametrize("readable", [True, False])
def test_a_judge_is_asked_for_one_group(readable: bool, path: Path, tiny_teacher: Path) -> None:
    judge = EndpointServer(lambda body: "Order: [1] > [2]" if readable else "I cannot say", models=["j"])
    words = (
        f"teacher={{model: {tiny_teacher}}}",
        "methods=[dpo]",
        "responses={source: teacher, n: 2, max_new_tokens: 8}",
    )
    ranker = f"score={{rankers: [{{name: judge, url: '{judge.url}', model: j, retries: 1}}]}}"
    try:
        (told,) = of("rankers", path, *words, ranker, ask=False)
        assert "up to 3 short requests" in told.text
        assert judge.asked == []
        (found,) = of("rankers", path, *words, ranker)
    finally:
        judge.close()
    assert len(judge.asked) == 2
    assert found.severity == ("note" if readable else "warning")
    assert ("ordered a group of two" in found.text) == readable
