"""The judge's client against a real HTTP server that misbehaves: retries, budget, store, keys.

Over 300 lines: every fault of the server has its own test.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grkd.endpoint.client import BudgetReached, Endpoint
from grkd.endpoint.judge import Budget, Judge, Request, RequestFailed
from grkd.endpoint.launch import budget_of, concurrency_of
from grkd.endpoint.loop import wait_for
from grkd.errors import UserError
from tests._forked import Forked

pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")
SECRET = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def judge(server: Any, tmp_path: Path, **changes: Any) -> Judge:
    options: dict[str, Any] = {"store": tmp_path / "judgements.jsonl", "backoff_seconds": 0.01, "retries": 3}
    return Judge(server.url, "weak", **{**options, **changes})


def requests(count: int, **changes: Any) -> list[Request]:
    return [
        Request(id=f"q{n}", messages=[{"role": "user", "content": f"question {n}"}], max_tokens=5, **changes)
        for n in range(count)
    ]


def ask(asked: Judge, text: str = "hello", logprobs: int | None = None) -> Any:
    return asked.ask([{"role": "user", "content": text}], max_tokens=5, logprobs=logprobs)


def test_a_judgement_and_its_line_in_the_store(server: Any, tmp_path: Path) -> None:
    found = ask(judge(server, tmp_path))
    assert (found.text, found.prompt_tokens, found.completion_tokens) == ("answer to hello", 7, 3)
    assert server.asked == [
        {
            "model": "weak",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 5,
            "temperature": 0.0,
        }
    ]
    line = json.loads((tmp_path / "judgements.jsonl").read_text())
    assert line["request"]["messages"] == [{"role": "user", "content": "hello"}]
    assert (line["text"], line["judge"], line["url"]) == ("answer to hello", "weak", server.url)
    assert (line["prompt_tokens"], line["completion_tokens"], line["tries"]) == (7, 3, 1)


@pytest.mark.parametrize("fault", ["429", "500", "cut", "garbage", "page", "empty", "null"])
def test_a_fault_that_passes(server: Any, tmp_path: Path, fault: str) -> None:
    server.faults = [fault]
    assert ask(judge(server, tmp_path)).text == "answer to hello"
    assert len(server.asked) == 2
    assert json.loads((tmp_path / "judgements.jsonl").read_text())["tries"] == 2


def answer_with(**changes: Any) -> str:
    """A chat completion as a broken server may write it; NaN and Infinity are written as Python does."""
    message = {"role": "assistant", "content": "fine", **changes.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **changes.pop("choice", {})}
    return json.dumps({"id": "x", "object": "chat.completion", "created": 0, "choices": [choice], **changes})


@pytest.mark.parametrize(
    "body",
    [
        *("", "3", "null", "[]", '"text"', "[" * 100_000, '{"choices": ' + "9" * 5000 + "}"),
        *(answer_with(choices=wrong) for wrong in (None, {}, "text", [3], [None])),
        *(answer_with(message={"content": wrong}) for wrong in (3, ["fine"], {"text": "fine"}, float("nan"))),
        answer_with(choice={"message": None}),
        answer_with(choice={"logprobs": {"content": [{"token": "a", "logprob": "x"}]}}),
    ],
    ids=lambda body: body[:60],
)
def test_an_answer_that_is_none_is_asked_for_again(server: Any, tmp_path: Path, body: str) -> None:
    server.faults = [f"as it is: {body}"]
    assert ask(judge(server, tmp_path)).text == "answer to hello"
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 2}, "choices": [{"text": "x"}]}, 9),
        ({"choices": [{"text": "twelve chars"}, {"text": "a"}]}, 3 + 3 + 1),  # three ids, four characters per token
        ({"usage": None, "choices": [{"text": None}]}, 3),
        ({"usage": {"total_tokens": 5}, "choices": "none"}, 3),
    ],
)
def test_a_completion_without_a_count_is_estimated_for_the_budget(
    server: Any, answer: dict[str, Any], tokens: int
) -> None:
    server.faults = [f"as it is: {json.dumps(answer)}"]
    endpoint = Endpoint(server.url, "weak", role="teacher", budget=Budget(max_tokens=100))
    wait_for(endpoint.completion({"prompt": [1, 2, 3]}, lambda answer: answer["choices"]))
    assert endpoint.budget.tokens == tokens


def test_a_completions_odd_usage_is_asked_for_again(server: Any) -> None:
    server.faults = ['as it is: {"usage": {"prompt_tokens": Infinity}, "choices": []}']
    endpoint = Endpoint(server.url, "weak", role="teacher", backoff_seconds=0.01)
    assert (
        wait_for(endpoint.completion({"prompt": "a", "messages": [{"content": "b"}]}, lambda answer: answer["model"]))
        == "weak"
    )
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "body",
    [
        *(answer_with(usage={"prompt_tokens": wrong, "completion_tokens": 1}) for wrong in (-5, True, 1e9, 10**400)),
        *(answer_with(usage=wrong) for wrong in (None, "x", [])),
        *(answer_with(choice={"finish_reason": wrong}) for wrong in (None, ["stop"], float("nan"))),
        answer_with(choice={"logprobs": {"content": [{"token": "a", "logprob": float("inf"), "top_logprobs": None}]}}),
    ],
    ids=lambda body: body[-60:],
)
def test_what_is_odd_beside_a_text_is_left_out(server: Any, tmp_path: Path, body: str) -> None:
    server.faults = [f"as it is: {body}"]
    assert ask(judge(server, tmp_path)).text == "fine"
    found = judge(server, tmp_path)  # what was stored can be read again
    assert ask(found).text == "fine"
    assert len(server.asked) == 1


def test_a_refusal_is_the_reason(server: Any, tmp_path: Path) -> None:
    server.always = "as it is: " + answer_with(message={"content": None, "refusal": "not today"})
    with pytest.raises(RequestFailed, match=r"it refuses: not today \(tried 4 times\)"):
        ask(judge(server, tmp_path))


def test_a_slow_server_is_given_up_on_and_tried_again(server: Any, tmp_path: Path) -> None:
    server.faults = ["slow"]
    assert ask(judge(server, tmp_path, timeout_seconds=0.2)).text == "answer to hello"
    assert len(server.asked) > 1  # on a busy machine a good answer may be late, too


def test_a_server_that_sends_a_byte_now_and_then_is_given_up_on(server: Any, tmp_path: Path) -> None:
    server.faults = ["drip"]
    assert ask(judge(server, tmp_path, timeout_seconds=0.3)).text == "answer to hello"
    assert len(server.asked) > 1


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_that_is_no_time_is_refused(server: Any, tmp_path: Path, seconds: float) -> None:
    with pytest.raises(UserError, match="the timeout must be above 0 seconds"):
        judge(server, tmp_path, timeout_seconds=seconds)


def test_half_a_surrogate_pair_in_an_answer_is_stored_as_a_question_mark(server: Any, tmp_path: Path) -> None:
    server.reply = lambda _: "a\ud83db"
    assert ask(judge(server, tmp_path)).text == "a?b"
    assert ask(judge(server, tmp_path)).text == "a?b"
    assert len(server.asked) == 1


def test_a_log_probability_that_is_no_number_is_none(server: Any, tmp_path: Path) -> None:
    server.logprobs = [("m", float("nan")), ("M", -0.1)]
    found = ask(judge(server, tmp_path), logprobs=5).logprobs
    assert [one["logprob"] for one in found[0]["top_logprobs"]] == [None, -0.1]
    assert ask(judge(server, tmp_path), logprobs=5).logprobs == found


def test_retry_after_is_obeyed_and_the_wait_doubles(server: Any, tmp_path: Path) -> None:
    server.faults = ["429", "500", "500", "500"]
    ask(judge(server, tmp_path, retries=4, backoff_seconds=0.05))
    waits = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert 0.3 <= waits[0] < 0.45
    assert waits[1] >= 0.75 * 0.1
    assert waits[3] >= 0.75 * 0.4 > waits[1] * 0.75


def test_a_fault_that_stays_ends_after_the_retries(server: Any, tmp_path: Path) -> None:
    server.always = "500"
    with pytest.raises(RequestFailed, match=r"status 500: out of order \(tried 4 times\)"):
        ask(judge(server, tmp_path))
    assert len(server.asked) == 4
    assert not (tmp_path / "judgements.jsonl").exists()


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        ("unknown model", ["knows no model 'weak'", "good-one, better-one"]),
        ("refuses key", ["wants a key", "OPENAI_API_KEY"]),
        ("moved", ["elsewhere.example", "give that URL"]),
    ],
)
def test_what_the_user_must_change_is_one_line_and_not_tried_again(
    server: Any, tmp_path: Path, fault: str, parts: list[str]
) -> None:
    server.models = ["good-one", "better-one"]
    server.always = fault
    with pytest.raises(UserError) as refused:
        judge(server, tmp_path).ask_all(requests(1))
    assert "\n" not in str(refused.value)
    assert all(part in str(refused.value) for part in parts)
    assert len(server.asked) == 1


def test_an_unreachable_endpoint(server: Any, tmp_path: Path) -> None:
    server.close()
    with pytest.raises(
        UserError, match=r"cannot reach http://127\.0\.0\.1:\d+/v1 \(Connection refused\); check the URL"
    ):
        judge(server, tmp_path).check()
    server.__init__()  # so that the fixture can close it


def test_check_asks_a_question_once_and_only_of_a_model_that_is_not_listed(server: Any, tmp_path: Path) -> None:
    server.models = ["weak"]
    judge(server, tmp_path).check()
    assert not server.asked
    server.models = ["other"]
    judge(server, tmp_path).check()
    assert len(server.asked) == 1
    found = ask(judge(server, tmp_path))
    server.close()
    judge(server, tmp_path).check()  # it has judged before: a finished run needs no judge
    assert ask(judge(server, tmp_path)) == found
    server.__init__()  # so that the fixture can close it


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "ftp://host/v1", "http://", "http://user:pw-9@host/v1", "http://host/v1?key=pw-9", "x"]
)
def test_bad_urls_are_refused_without_repeating_their_secrets(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"judge: ") as refused:
        Judge(url, "weak", store=tmp_path / "j.jsonl")
    assert "pw-9" not in str(refused.value)


def test_the_url_is_completed(tmp_path: Path) -> None:
    def completed(url: str) -> str:
        return Judge(url, "weak", store=tmp_path / "j.jsonl").endpoint.url

    assert completed("http://host:8000") == "http://host:8000/v1"
    assert completed("http://[::1]:8000/") == "http://[::1]:8000/v1"
    assert completed("http://host/openai/v1/chat/completions") == "http://host/openai/v1"


def test_a_missing_key_is_named(tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"no key for https://api\.example/v1; set the environment variable OPENAI_API_"
    ):
        Judge("https://api.example/v1", "weak", store=tmp_path / "j.jsonl")
    monkeypatch.setenv("OTHER_KEY", "")
    with pytest.raises(UserError, match="OTHER_KEY"):
        judge(server, tmp_path, key_env="OTHER_KEY")


def test_the_key_is_sent_and_reaches_no_file_log_or_message(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    server.reply = lambda body: f"your key is {SECRET}"
    server.faults = ["500", "refuses key"]
    asked = judge(server, tmp_path, key_env="MY_KEY")
    with pytest.raises(UserError, match=r"refuses the key in MY_KEY .*\[key\]") as refused:
        ask(asked)
    assert ask(asked).text == "your key is [key]"
    assert server.keys[-1] == f"Bearer {SECRET}"
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    for text in [*written, caplog.text, str(refused.value), repr(asked), repr(asked.endpoint)]:
        assert SECRET not in text


def test_logprobs_as_the_endpoint_gives_them(server: Any, tmp_path: Path) -> None:
    server.logprobs = [("m", -0.1), ("M", float("-inf"))]
    found = ask(judge(server, tmp_path), logprobs=5)
    assert (server.asked[0]["logprobs"], server.asked[0]["top_logprobs"]) == (True, 5)
    first = {"token": "m", "logprob": -0.1}
    assert found.logprobs == [{**first, "top_logprobs": [first, {"token": "M", "logprob": -9999.0}]}]


def test_an_endpoint_that_refuses_logprobs_is_asked_without_from_then_on(server: Any, tmp_path: Path) -> None:
    server.always = "no logprobs"
    outcome = judge(server, tmp_path, concurrency=1).ask_all(requests(3, logprobs=5))
    assert [judged.logprobs for judged in outcome.judgements.values()] == [None] * 3
    assert ["logprobs" in body for body in server.asked] == [True, False, False, False]
    lines = [json.loads(line) for line in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert {(line["request"]["logprobs"], *line["left_out"]) for line in lines} == {(5, "logprobs")}


def test_an_endpoint_that_leaves_logprobs_out_without_a_word(server: Any, tmp_path: Path) -> None:
    assert ask(judge(server, tmp_path), logprobs=5).logprobs is None


def test_tokens_are_estimated_where_the_endpoint_counts_none(server: Any, tmp_path: Path) -> None:
    server.usage = False
    found = ask(judge(server, tmp_path), "x" * 41)
    assert found.prompt_tokens == 11  # 41 characters, four a token
    assert json.loads((tmp_path / "judgements.jsonl").read_text())["tokens_estimated"] is True


def test_nothing_is_asked_twice(server: Any, tmp_path: Path) -> None:
    first = judge(server, tmp_path).ask_all(requests(6))
    assert len(server.asked) == 6
    again = judge(server, tmp_path).ask_all(requests(8))
    assert len(server.asked) == 8
    assert {name: again.judgements[name] for name in first.judgements} == first.judgements
    assert list(again.judgements) == [f"q{n}" for n in range(8)]


def test_equal_requests_are_asked_once(server: Any, tmp_path: Path) -> None:
    twice = [Request(id=name, messages=[{"role": "user", "content": "same"}], max_tokens=5) for name in "ab"]
    outcome = judge(server, tmp_path).ask_all(twice)
    assert len(server.asked) == 1
    assert outcome.judgements["a"] == outcome.judgements["b"]


def test_what_was_asked_otherwise_is_asked_again(server: Any, tmp_path: Path) -> None:
    asked = judge(server, tmp_path)
    asked.ask_all(requests(1))
    for changed in (
        requests(1, temperature=0.5),
        requests(1, logprobs=2),
        [Request(**{**vars(requests(1)[0]), "max_tokens": 6})],
    ):
        asked.ask_all(changed)
    Judge(server.url, "strong", store=tmp_path / "judgements.jsonl").ask_all(requests(1))
    assert len(server.asked) == 5


def test_requests_run_at_the_same_time_but_not_more_than_asked_for(server: Any, tmp_path: Path) -> None:
    server.delay_seconds = 0.05
    judge(server, tmp_path, concurrency=3).ask_all(requests(9))
    assert server.most_at_once == 3


@pytest.mark.parametrize(("budget", "asked"), [(Budget(max_requests=4), 4), (Budget(max_tokens=25), 3)])
def test_the_budget_stops_cleanly_and_the_next_run_goes_on(
    server: Any, tmp_path: Path, budget: Budget, asked: int
) -> None:
    outcome = judge(server, tmp_path, budget=budget, concurrency=1).ask_all(requests(10))
    assert len(server.asked) == asked == len(outcome.judgements)  # ten tokens a judgement
    assert "used up" in str(outcome.stopped)
    assert not outcome.complete
    assert judge(server, tmp_path).ask_all(requests(10)).complete
    assert len(server.asked) == 10


@given(number=st.integers(1, 50), processes=st.integers(1, 9))
def test_the_processes_of_a_launch_share_a_budget(number: int, processes: int) -> None:
    parts = []
    for rank in range(processes):
        with pytest.MonkeyPatch.context() as launch:
            launch.setenv("WORLD_SIZE", str(processes))
            launch.setenv("RANK", str(rank))
            parts.append(budget_of(number))
            assert concurrency_of(number) == max(1, parts[-1].max_requests or 0)
    own = [part.max_requests or 0 for part in parts]
    assert sum(own) == number
    assert max(own) - min(own) <= 1
    for _ in range(own[-1]):
        parts[-1].take()
    with pytest.raises(BudgetReached, match=r"share\) is used up" if processes > 1 else r"requests is used up"):
        parts[-1].take()


def test_every_try_counts_in_the_budget(server: Any, tmp_path: Path) -> None:
    server.always = "500"
    outcome = judge(server, tmp_path, budget=Budget(max_requests=3), concurrency=1).ask_all(requests(10))
    assert len(server.asked) == 3
    assert outcome.stopped is not None


def test_answers_without_a_text_cost_tokens_too(server: Any, tmp_path: Path) -> None:
    """Thoughts that reach the limit leave no text; their retries must not pass a budget of tokens."""
    server.always = "null"
    outcome = judge(server, tmp_path, budget=Budget(max_tokens=15), concurrency=1).ask_all(requests(1))
    assert outcome.stopped == "the budget of 15 tokens is used up"
    assert len(server.asked) == 2  # ten tokens each


def test_one_refused_request_does_not_stop_the_others(server: Any, tmp_path: Path) -> None:
    server.faults = ["too long"]
    asked = judge(server, tmp_path, concurrency=1)
    outcome = asked.ask_all(requests(4))
    assert len(outcome.judgements) == 3
    assert list(outcome.failures) == ["q0"]
    assert "over the context length" in outcome.failures["q0"]
    assert asked.ask_all(requests(4)).complete  # failures are not stored


def test_an_error_ends_all_waiting_and_keeps_what_was_on_its_way(server: Any, tmp_path: Path) -> None:
    """A refused key, while one request waits an hour to be tried again and others are being answered."""
    server.faults = ["come back in an hour", "", "", "refuses key"]
    server.delay_seconds = 0.02
    with pytest.raises(UserError, match="wants a key"):
        judge(server, tmp_path, concurrency=4).ask_all(requests(30))
    lines = (tmp_path / "judgements.jsonl").read_text().splitlines()
    assert len(lines) == len(server.answered) < 30
    assert judge(server, tmp_path).ask_all(requests(30)).complete
    assert len(server.answered) == 30


def test_a_forked_process_asks_by_connections_of_its_own(server: Any, tmp_path: Path) -> None:
    asked = judge(server, tmp_path)
    asked.ask_all(requests(2))
    child = Forked(lambda: asked.ask_all(requests(4)), tmp_path / "log")
    child.wait()
    assert child.status == 0, child.printed()
    assert asked.ask_all(requests(1)).complete
    assert len(server.answered) == 4


def test_an_endpoint_that_goes_down_ends_the_run_with_one_line(server: Any, tmp_path: Path) -> None:
    asked = judge(server, tmp_path, retries=1, concurrency=1)
    asked.ask_all(requests(2))
    server.always = "500"
    with pytest.raises(UserError, match=r"gives no answer: .*answers so far are kept"):
        asked.ask_all(requests(20))
    assert 2 + 3 * 2 <= len(server.asked) <= 2 + 4 * 2  # the next may have begun
    server.always = None
    assert asked.ask_all(requests(20)).complete
    assert len(server.answered) == 20


def test_a_torn_last_line_is_asked_again_and_a_broken_one_is_named(server: Any, tmp_path: Path) -> None:
    store = tmp_path / "judgements.jsonl"
    judge(server, tmp_path, concurrency=1).ask_all(requests(3))
    whole = store.read_bytes()
    store.write_bytes(whole[:-30])
    assert judge(server, tmp_path).ask_all(requests(3)).complete
    assert len(server.asked) == 4
    assert [json.loads(line)["id"] for line in store.read_text().splitlines()] == ["q0", "q1", "q2"]
    store.write_text(store.read_text().replace('{"key"', "{'key'", 1))
    with pytest.raises(UserError, match=r"judgements\.jsonl, line 1: "):
        judge(server, tmp_path)


def test_cost_sums_what_these_requests_cost(server: Any, tmp_path: Path) -> None:
    asked = judge(server, tmp_path)
    asked.ask_all(requests(5))
    cost = asked.cost(requests(3))
    assert (cost["judgements"], cost["tries"], cost["prompt_tokens"], cost["completion_tokens"]) == (3, 3, 21, 9)
    assert cost["urls"] == [server.url]


def test_a_killed_process_loses_nothing_that_was_answered(server: Any, tmp_path: Path) -> None:
    server.delay_seconds = 0.1
    store = tmp_path / "judgements.jsonl"
    judge = Judge(server.url, "weak", store=store, concurrency=2)
    process = Forked(lambda: judge.ask_all(requests(12)), tmp_path / "log")
    try:
        while not (store.exists() and store.read_bytes().count(b"\n") >= 4):
            assert process.is_running(), process.log.read_text()
            time.sleep(0.01)
    finally:
        process.kill()
    server.settle()
    stored = store.read_bytes().count(b"\n")
    assert 4 <= stored < 12
    before = len(server.asked)
    assert before <= stored + 2  # two requests were on their way
    outcome = Judge(server.url, "weak", store=store).ask_all(requests(12))
    assert outcome.complete
    assert len(server.asked) - before == 12 - stored
