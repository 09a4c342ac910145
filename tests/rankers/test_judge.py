"""The judge: what is asked, how answers are read, and what happens when they fail to come."""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grkd import rankers
from grkd.errors import UserError
from grkd.rankers import Ranker, Resources
from grkd.rankers._prompts import read_list, read_pair
from tests._endpoint_server import EndpointServer

PROMPTS = [
    "which number is larger?",
    [{"role": "system", "content": "be brief"}, {"role": "user", "content": "and now?"}],
]
RESPONSES = [["4", "9", "4"], ["2", "1"]]


def shown(body: dict[str, Any]) -> list[float]:
    """The responses, which are numbers, in the order in which a request shows them."""
    text = body["messages"][-1]["content"]
    return [float(value) for value in re.findall(r"## Response \S+\n\n(\S+)", text)]


def honest(body: dict[str, Any]) -> str:
    """The larger number is better."""
    values = shown(body)
    if "Better:" in body["messages"][-1]["content"]:
        return "Better: " + ("tie" if values[0] == values[1] else "A" if values[0] > values[1] else "B")
    places = sorted(range(len(values)), key=lambda at: -values[at])
    text = f"[{places[0] + 1}]"
    for before, after in pairwise(places):
        text += f" {'=' if values[before] == values[after] else '>'} [{after + 1}]"
    return f"Let me see.\nOrder: {text}"


def first_shown(body: dict[str, Any]) -> str:
    if "Better:" in body["messages"][-1]["content"]:
        return "Better: A"
    return "Order: " + " > ".join(f"[{at + 1}]" for at in range(len(shown(body))))


@pytest.fixture
def serve() -> Iterator[Callable[..., EndpointServer]]:
    servers = []

    def start(reply: Callable[[dict[str, Any]], str] = honest) -> EndpointServer:
        servers.append(EndpointServer(reply, models=["judge"]))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def opened(server: EndpointServer, folder: Path | None = None, **options: Any) -> Ranker:
    ranker = rankers.load("judge", url=server.url, model="judge", timeout_seconds=5.0, **options)
    ranker.open(Resources(folder=folder))
    return ranker


@pytest.mark.parametrize("ask", ["list", "pairs"])
def test_share_of_comparisons_won(serve: Callable[..., EndpointServer], ask: str) -> None:
    server = serve()
    ranker = opened(server, ask=ask)
    found = ranker(PROMPTS, RESPONSES)
    np.testing.assert_array_equal(found, [[0.25, 1.0, 0.25], [1.0, 0.0, math.nan]])
    assert len(server.asked) == {"list": 1 + 2, "pairs": 3 + 2}[ask]  # questions with the same texts are asked once
    assert ranker.tallies["position_bias"].value == 0.0
    assert "System" not in str(server.asked[0])
    assert any("Instructions: be brief" in str(body) for body in server.asked)


@pytest.mark.parametrize("ask", ["list", "pairs"])
def test_a_preference_for_the_first_place_cancels_and_is_reported(
    serve: Callable[..., EndpointServer], ask: str
) -> None:
    ranker = opened(serve(first_shown), ask=ask)
    np.testing.assert_array_equal(ranker(["p"], [["1", "2", "3"]]), [[0.5, 0.5, 0.5]])
    assert ranker.tallies["position_bias"].value == 0.5


def test_a_group_of_one_is_not_asked_about(serve: Callable[..., EndpointServer]) -> None:
    server = serve()
    assert np.isnan(opened(server)(["p"], [["1"]])).all()
    assert server.asked == []


def test_unreadable_answers_are_counted_and_give_no_score(serve: Callable[..., EndpointServer]) -> None:
    """Of the pair (4, 9) one order cannot be read: the other alone would let the place decide."""
    server = serve(lambda body: "I cannot say" if shown(body) == [4.0, 9.0] else honest(body))
    ranker = opened(server, ask="pairs")
    np.testing.assert_array_equal(ranker(["p"], [["4", "9", "5"]]), [[0.0, 1.0, 0.5]])  # 9 against 5, 4 against 5
    assert (ranker.tallies["answers"].value, ranker.tallies["unreadable"].value) == (6, 1)
    ranker = opened(server)
    assert np.isnan(ranker(["p"], [["4", "9"]])).all()
    assert ranker.tallies["unreadable"].value == 1


@pytest.mark.parametrize(("reply", "expected"), [("Is it better: A? Or is B", math.nan), ("Better: A\nSince it", 0.5)])
def test_thoughts_that_the_limit_cut_are_no_judgement(
    serve: Callable[..., EndpointServer], reply: str, expected: float
) -> None:
    server = serve()
    choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "length"}
    server.always = "as it is: " + json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]})
    ranker = opened(server, ask="pairs")
    np.testing.assert_array_equal(ranker(["p"], [["4", "9"]]), [[expected, expected]])
    assert ranker.tallies["unreadable"].value == (2 if math.isnan(expected) else 0)


def test_the_judge_reads_calls_of_tools(serve: Callable[..., EndpointServer]) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    turns = [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "rain"}]
    server = serve()
    opened(server)([turns], [["4", "9"]])
    assert 'Assistant: weather({"city": "Paris"})' in server.asked[0]["messages"][0]["content"]


@pytest.mark.parametrize("fault", ["500", "garbage", "cut", "empty"])
def test_faults_that_pass_are_tried_again(serve: Callable[..., EndpointServer], fault: str) -> None:
    server = serve()
    server.faults = [fault]
    ranker = opened(server, concurrency=1)
    np.testing.assert_array_equal(ranker(["p"], [["4", "9"]]), [[0.0, 1.0]])
    assert len(server.asked) == 3


def test_a_busy_server_is_waited_for(serve: Callable[..., EndpointServer]) -> None:
    server = serve()
    server.faults = ["429"]
    np.testing.assert_array_equal(opened(server, concurrency=1)(["p"], [["4", "9"]]), [[0.0, 1.0]])
    assert server.times[1] - server.times[0] >= 0.3  # its Retry-After


def test_a_refused_question_has_no_answer(serve: Callable[..., EndpointServer]) -> None:
    server = serve()
    server.faults = ["too long"]
    ranker = opened(server, concurrency=1)
    np.testing.assert_array_equal(ranker(["p", "q"], [["4", "9"], ["4", "9"]]), [[math.nan, math.nan], [0.0, 1.0]])
    assert ranker.tallies["refused"].value == 1


def test_a_server_that_is_down(serve: Callable[..., EndpointServer]) -> None:
    server = serve()
    ranker = opened(server, retries=0, concurrency=1)
    server.always = "500"
    with pytest.raises(UserError, match="gives no answer: status 500"):
        ranker(["p"], [["4", "9"]])


def test_nothing_is_asked_twice(serve: Callable[..., EndpointServer], tmp_path: Path) -> None:
    server = serve()
    first = opened(server, tmp_path)(PROMPTS, RESPONSES)
    asked = len(server.asked)
    np.testing.assert_array_equal(opened(server, tmp_path)(PROMPTS, RESPONSES), first)
    assert len(server.asked) == asked
    opened(server, tmp_path, criteria="Shorter is better.")(PROMPTS, RESPONSES)
    assert len(server.asked) == 2 * asked


def test_the_budget_ends_it_and_a_larger_one_goes_on(serve: Callable[..., EndpointServer], tmp_path: Path) -> None:
    server = serve()
    with pytest.raises(UserError) as raised:
        opened(server, tmp_path, max_requests=3, concurrency=1)(PROMPTS, [["4", "9"], ["2", "1"]])
    assert str(raised.value).startswith("ranker judge: the budget of 3 requests is used up; raise max_requests")
    assert len(server.asked) == 3
    found = opened(server, tmp_path, max_requests=1, concurrency=1)(PROMPTS, [["4", "9"], ["2", "1"]])
    assert not np.isnan(found[:, :2]).any()
    assert len(server.asked) == 4
    with pytest.raises(UserError, match="budget of 5 tokens is used up"):
        opened(server, max_tokens=5, concurrency=1)(PROMPTS, [["4", "9"], ["2", "1"]])


def test_rankers_of_a_command_share_a_budget(serve: Callable[..., EndpointServer]) -> None:
    """Of the score stage and of every student that is trained in its process, if the limits are the same."""
    server, command = serve(), Resources()
    limits = {"max_requests": 3, "concurrency": 1}
    judges = [rankers.load("judge", url=server.url, model="judge", criteria=text, **limits) for text in "ab"]
    for judge in judges:
        judge.open(command)
    judges[0](PROMPTS[:1], [["4", "9"]])
    with pytest.raises(UserError, match="the budget of 3 requests is used up"):
        judges[1](PROMPTS[:1], [["4", "9"]])
    assert len(server.asked) == 3


KILLED = """
import sys
from pathlib import Path
from grkd import rankers
ranker = rankers.load("judge", url=sys.argv[1], model="judge", concurrency=1)
ranker.open(rankers.Resources(folder=Path(sys.argv[2])))
ranker(["p"] * 8, [[str(at), "9"] for at in range(8)])
"""


def test_a_kill_loses_no_answer(serve: Callable[..., EndpointServer], tmp_path: Path) -> None:
    server = serve()
    server.delay_seconds = 0.05
    process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(tmp_path)])
    while len(server.answered) < 5 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    stored = (tmp_path / "judge.jsonl").read_text().count("\n")
    assert 4 <= stored < 16, "it was killed in the middle"
    server.delay_seconds = 0.0
    server.settle()
    before = len(server.asked)
    found = opened(server, tmp_path)(["p"] * 8, [[str(at), "9"] for at in range(8)])
    np.testing.assert_array_equal(found, [[0.0, 1.0]] * 8)
    assert len(server.asked) - before == 16 - stored


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Better: A", 1.0),
        ("better: **B**", 0.0),
        ("A is nice. Better: A? No.\nBetter: tie", 0.5),
        ("B.", 0.0),
        ("Both are good", None),
        ("Better: C", None),
        ("**Better:**\n\nA", 1.0),
        ("Which one is better:\n\nA is short, B is long.\n\nBetter: Response B", None),
        ("B would be better: a shorter one is clearer.", None),
        ("", None),
    ],
)
def test_reading_a_pair(reply: str, expected: float | None) -> None:
    assert read_pair(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Order: [2] > [1] > [3]", [1, 0, 2]),
        ("I think [1] > [2].\n\n**Order: [3] > [1] = [2]**", [1, 1, 0]),
        ("2 > 3 > 1", [2, 0, 1]),
        ("Order: [2] > [1]", None),
        ("Order: [2] > [1] > [1] > [3]", None),
        ("Order: [2] > [1] > [4]", None),
        ("3, 2, 1", None),
        ("", None),
    ],
)
def test_reading_a_list(reply: str, expected: list[int] | None) -> None:
    assert read_list(reply, 3) == expected


def test_mistakes_before_anything_is_asked(serve: Callable[..., EndpointServer]) -> None:
    server = serve()
    server.always = "unknown model"
    ranker = rankers.load("judge", url=server.url, model="other", retries=0)
    with pytest.raises(UserError, match="knows no model 'other'"):
        ranker.open(Resources())
    with pytest.raises(UserError, match="cannot reach"):
        rankers.load("judge", url="http://127.0.0.1:9/v1", model="judge", retries=0).open(Resources())
