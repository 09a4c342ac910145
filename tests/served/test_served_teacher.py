"""A served teacher against the same model in this process, and against a server that misbehaves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grkd.data.language import Item
from grkd.endpoint.client import Budget, Endpoint
from grkd.errors import UserError
from grkd.models.load import load_language_model
from grkd.served import ServedTeacher
from grkd.teacher.local import LocalTeacher
from tests._model_server import ModelServer
from tests.language._score_runs import save_llama, tokenizer

pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")

ITEMS = [
    Item(id="a#0", prompt_ids=[2, 4, 9, 3, 2, 5], response_ids=[11, 17, 3]),
    Item(id="a#1", prompt_ids=[2, 4, 9, 3, 2, 5], response_ids=[30]),
    Item(id="b#0", prompt_ids=[2, 4, 22, 8, 3, 2, 5], response_ids=[25, 12, 12, 9, 3]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("model") / "teacher", tokenizer())


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[ModelServer]:
    made = ModelServer(folder, context=256)
    yield made
    made.close()


@pytest.fixture
def model_server(running: ModelServer, folder: Path) -> Iterator[ModelServer]:
    yield running
    running.faults, running.always, running.root, running.context = [], None, str(folder), 256
    running.asked.clear()


def local(folder: Path) -> LocalTeacher:
    words = AutoTokenizer.from_pretrained(folder)
    return LocalTeacher(load_language_model(str(folder), dtype=torch.float32), words, vocabulary=48, batch_size=2)


def teacher(server: ModelServer, folder: Path | None, **options: Any) -> ServedTeacher:
    client = Endpoint(server.url, "s", role="teacher", retries=2, backoff_seconds=0.01, **options.pop("client", {}))
    made = ServedTeacher(client, server.tokenizer, folder=folder, **{"concurrency": 2, "top_k": 5, **options})
    made.open()
    return made


def test_log_probabilities_are_those_of_the_model(model_server: ModelServer, folder: Path) -> None:
    served = teacher(model_server, None)
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    means, rows = served.scored(ITEMS, keep={"a#0", "b#0"})
    assert set(rows) == {"a#0", "b#0"}
    for item, mean in zip(ITEMS, means, strict=True):
        ids = item.prompt_ids + item.response_ids
        with torch.no_grad():
            every = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        of_response = every[len(item.prompt_ids) - 1 : -1]
        own = of_response.gather(-1, torch.tensor(item.response_ids).unsqueeze(-1)).mean()
        assert mean == pytest.approx(own.item(), abs=1e-5)
        if item.id in rows:
            top = of_response.topk(5)
            torch.testing.assert_close(rows[item.id][0].long(), top.indices)
            torch.testing.assert_close(rows[item.id][1].double(), top.values, atol=2e-5, rtol=0)


def test_its_choice_is_that_of_the_model(model_server: ModelServer, folder: Path) -> None:
    prompts, responses = ["w1 w2", "w7"], [["w3", "w4 w5", "w9"], ["w0", "w6"]]
    found = teacher(model_server, None).choices(prompts, responses, {"group": ["g", "h"]})
    own = local(folder).choices(prompts, responses, {"group": ["g", "h"]})
    for one, other in zip(found, own, strict=True):
        assert one.log_wins == pytest.approx(other.log_wins, abs=1e-5)
        assert one.first == pytest.approx(other.first, abs=1e-5)


def test_nothing_is_asked_twice_after_a_kill(model_server: ModelServer, tmp_path: Path) -> None:
    model_server.always = None
    model_server.faults = ["", "500", "500", "500"]
    with pytest.raises(UserError, match="the others are kept, the same command resumes"):
        teacher(model_server, tmp_path, concurrency=1).scored(ITEMS, keep={"b#0"}, store=tmp_path / "large.jsonl")
    # A kill in the middle of a line: the line is dropped and its request repeated.
    with (tmp_path / "answers.jsonl").open("a") as stream:
        stream.write('{"key": "torn')
    before = len(model_server.answered)
    means, _ = teacher(model_server, tmp_path).scored(ITEMS, keep={"b#0"}, store=tmp_path / "large.jsonl")
    assert len(model_server.answered) - before == 1
    again = teacher(model_server, tmp_path)
    assert again.scored(ITEMS, keep={"b#0"}, store=tmp_path / "large.jsonl")[0] == means
    assert again.mean_log_probs(["p"], [["x"]], {"prompt_ids": [[2, 4, 9, 3, 2, 5]], "response_ids": [[[30]]]}) == [
        [means[1]]
    ]
    assert len(model_server.answered) - before == 1


@pytest.mark.parametrize("fault", ["429", "500", "cut", "garbage", "nan", "missing"])
def test_a_fault_that_passes(model_server: ModelServer, fault: str) -> None:
    model_server.faults = [fault]
    served = teacher(model_server, None, concurrency=1)
    assert served.scored(ITEMS[:1])[0][0] < 0
    assert len(model_server.asked) == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", r"1 of 1 requests .* \(a#0: a log-probability in its answer is nan"),
        ("missing", "no log-probability of token 3 in its answer"),
        ("no field", "set teacher.log_probs: false"),
        ("fewer", r"read 8 tokens of a prompt of 9: it cuts or extends prompts"),
        ("other model", "answered as 'another'; set teacher.served_model"),
        ("other vocabulary", "another vocabulary; set teacher.tokenizer"),
        ("unknown model", "knows no model 's'"),
        ("refuses key", "wants a key; set OPENAI_API_KEY"),
        ("too long", "over the context length"),
    ],
)
def test_a_fault_that_stays_is_one_line(
    model_server: ModelServer, fault: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    model_server.always = fault
    with pytest.raises(UserError, match=said) as caught:
        teacher(model_server, None, concurrency=1).scored(ITEMS[:1])
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_another_model_than_the_one_at_hand_is_refused(model_server: ModelServer, folder: Path, tmp_path: Path) -> None:
    same, other = local(folder), local(save_llama(tmp_path / "other", tokenizer(), seed=7))
    teacher(model_server, None, local=lambda items: same.scored(items)[0], tolerance_nats=1e-4).scored(ITEMS)
    more = [replace(ITEMS[number % len(ITEMS)], id=f"{number}", prompt_ids=[4 + number]) for number in range(12)]
    model_server.answered.clear()
    with pytest.raises(UserError, match=r"nats per token from the server.*Usual causes: another model") as caught:
        teacher(model_server, None, local=lambda items: other.scored(items)[0]).scored(more)
    assert len(str(caught.value)) < 400
    assert len(model_server.answered) == 8  # no more is asked than is compared


def test_another_model_behind_the_name_after_a_restart_is_refused(model_server: ModelServer, tmp_path: Path) -> None:
    teacher(model_server, tmp_path).scored(ITEMS)
    model_server.root = "/models/new"
    with pytest.raises(UserError, match="is now /models/new, earlier answers are of"):
        teacher(model_server, tmp_path)


def test_limits_are_refused_before_anything_is_asked(model_server: ModelServer) -> None:
    model_server.context = 9
    with pytest.raises(UserError, match=r"a#0 take 10 of its tokens, the server's context is 9"):
        teacher(model_server, None).scored(ITEMS)
    assert not model_server.asked
    model_server.context = 256
    with pytest.raises(UserError, match=r"the budget of 1 requests is used up; raise teacher\.max_requests"):
        teacher(model_server, None, concurrency=1, client={"budget": Budget(max_requests=1)}).scored(ITEMS)
    client = Endpoint(model_server.url, "nobody", role="teacher")
    with pytest.raises(UserError, match="serves no 'nobody'; it serves s"):
        ServedTeacher(client, model_server.tokenizer, folder=None).open()
