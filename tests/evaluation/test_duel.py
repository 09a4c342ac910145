"""`grkd eval A B --prompts FILE --judge URL`: both orders, win rates, length control, resumed without asking twice."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from transformers import AutoModelForCausalLM, AutoTokenizer

from grkd import cli
from grkd.errors import UserError
from grkd.evaluation.duel import Judged, check_readable
from grkd.metrics.win_rate import controlled_interval, length_fit
from grkd.models.cut import truncated
from tests._endpoint_server import EndpointServer


def parts(body: dict[str, Any]) -> tuple[str, str]:
    """The two responses of a judge's question."""
    text = body["messages"][-1]["content"]
    found = re.search(r"## Response A\n\n(.*?)\n\n## Response B\n\n(.*?)\n\n## Your judgement", text, re.S)
    assert found is not None
    return found[1], found[2]


def prefers_more_words(body: dict[str, Any]) -> str:
    first, second = (len(set(text.split())) for text in parts(body))
    return f"Better: {'tie' if first == second else 'A' if first > second else 'B'}"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[EndpointServer]:
    pytest.importorskip("openai", reason="needs pip install 'grkd[eval]'")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    made = EndpointServer(prefers_more_words, models=["weak"])
    yield made
    made.close()


@pytest.fixture(scope="module")
def other(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "half"
    truncated(AutoModelForCausalLM.from_pretrained(tiny_teacher), [0, 2]).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_teacher).save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"w{n} w{n + 1}"}) + "\n" for n in range(8)))
    return path


def words(server: EndpointServer, one: Path, two: Path, prompts: Path, *more: str) -> list[str]:
    named = {"prompts": prompts, "judge": server.url, "judge-model": "weak", "output": prompts.parent / "duel"}
    given = [f"--{name}={value}" for name, value in named.items()]
    return ["eval", str(one), str(two), *given, "--answer-tokens=6", "--device=cpu", *more]


def test_two_models_are_compared_in_both_orders(
    judge: EndpointServer, tiny_teacher: Path, other: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(judge, tiny_teacher, other, prompts)
    assert cli.main([*command, "--max-requests=3"]) == 2  # the budget
    assert "answers so far are kept" in capsys.readouterr().err
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    found = json.loads((prompts.parent / "duel" / "duel.json").read_text())
    different = [item for item in found["items"] if item["first"] != item["second"]]
    assert len(different) > 3
    assert len(judge.asked) == 2 * len(different)
    expected = []
    for item in found["items"]:
        one, two = (len(set(item[side].split())) for side in ("first", "second"))
        expected.append(0.5 if one == two else float(one > two))
    assert [item["win"] for item in found["items"]] == expected
    assert found["metrics"]["win_rate"]["value"] == pytest.approx(np.mean(expected))
    assert found["won"] + found["lost"] + found["tied"] == 8
    assert found["tallies"]["position_bias"] == pytest.approx(0.0)
    assert "win rate at equal lengths" in shown
    assert "sign test p" in shown
    assert cli.main(command) == 0
    assert len(judge.asked) == 2 * len(different)  # nothing is asked twice


def test_a_judge_that_prefers_a_place_decides_nothing(
    judge: EndpointServer, tiny_teacher: Path, other: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge.reply = lambda _: "Better: A"
    assert cli.main(words(judge, tiny_teacher, other, prompts, "--limit=4")) == 0
    found = json.loads((prompts.parent / "duel" / "duel.json").read_text())
    assert (found["won"], found["lost"], found["tied"], found["p"]) == (0, 0, 4, 1.0)
    assert found["tallies"]["position_bias"] == pytest.approx(0.5)
    assert "No difference shown" in capsys.readouterr().out


def test_answers_that_cannot_be_read_are_counted(
    judge: EndpointServer, tiny_teacher: Path, other: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge.reply = lambda _: "I like\nboth of them."
    command = words(judge, tiny_teacher, other, prompts)
    assert cli.main(command) == 2
    asked = len(judge.asked)
    said = capsys.readouterr()
    assert "No difference" not in said.out
    line = f"nothing was judged: {asked} of {asked} answers of the judge could not be parsed, such as 'I like both of"
    assert line in said.err
    assert len(said.err) < 400
    # Of the other model's own order all but the first question are answered: one prompt of eight is lost.
    (prompts.parent / "duel" / "judge.jsonl").unlink()
    judge.reply = lambda body: "?" if "User: w0 w1\n" in str(body["messages"][-1]["content"]) else "Better: A"
    assert cli.main([*command, "--limit=8"]) == 0
    out = capsys.readouterr().out
    assert f"2 of {asked} answers of the judge could not be parsed, such as '?'." in " ".join(out.split())


@pytest.mark.parametrize(
    ("tied", "by_judge", "lost", "part"),
    [
        (0, 0, 3, "nothing was judged"),
        (7, 0, 3, "nothing was judged"),
        (0, 5, 85, "only 5 of 90"),
        (1, 5, 84, None),
        (0, 2, 1, None),  # three prompts show nothing anyway
    ],
)
def test_too_few_judgements_are_no_result(tied: int, by_judge: int, lost: int, part: str | None) -> None:
    wins = [0.5] * tied + [1.0] * by_judge + [float("nan")] * lost
    judged = Judged(wins=wins, tallies={}, by_judge=by_judge, unreadable="lost")
    if part is None:
        check_readable(judged)
    else:
        with pytest.raises(UserError, match=f"eval: {part}.*: lost"):
            check_readable(judged)
    check_readable(Judged(wins=[0.5], tallies={}))  # equal answers: none was asked about


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        (["--tasks=gsm8k"], "not on --tasks"),
        (["--prompts=absent.jsonl"], "absent.jsonl: no such file"),
        (["--limit=0"], "--limit must be 1 or more"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_generated(
    changed: list[str],
    part: str,
    judge: EndpointServer,
    tiny_teacher: Path,
    other: Path,
    prompts: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([*words(judge, tiny_teacher, other, prompts), *changed]) == 2
    said = capsys.readouterr().err
    assert part in said
    assert said.count("\n") == 1
    assert not [body for body in judge.asked if "Response A" in str(body)]


def test_two_models_need_a_judge(prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "one", "two", f"--prompts={prompts}"]) == 2
    assert "two models need a judge: --judge URL" in capsys.readouterr().err
    assert cli.main(["eval", "one", "two", "--judge=http://x/v1"]) == 2
    assert "two models need --prompts FILE" in capsys.readouterr().err


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Wins that follow length: the longer answer is preferred, the models are equally good."""
    random = np.random.default_rng(seed)
    lengths = random.normal(60.0, 100.0, 400)
    chance = 1 / (1 + np.exp(-2.0 * np.tanh(lengths / 100.0)))
    return (random.random(400) < chance).astype(np.float64), lengths


def test_the_fit_is_the_most_likely_one() -> None:
    wins, lengths = drawn()
    wins[::7] = 0.5
    scaled = np.tanh(lengths / lengths.std())

    def loss(weights: np.ndarray) -> float:
        logits = weights[0] + weights[1] * scaled
        return float((np.logaddexp(0, logits) - wins * logits).sum() + 0.5e-2 * (weights**2).sum())

    best = minimize(loss, np.zeros(2)).x
    found = length_fit(wins, lengths)
    assert (found.strength, found.slope) == pytest.approx(tuple(best), abs=1e-4)


def test_length_alone_is_no_merit() -> None:
    wins, lengths = drawn()
    assert wins.mean() > 0.6
    value, low, high = controlled_interval(wins, lengths, draws=100)
    assert low < 0.5 < high
    assert abs(value - 0.5) < 0.06
    turned, _, _ = controlled_interval(1 - wins, -lengths, draws=2)
    assert turned == pytest.approx(1 - value)


def test_equal_lengths_leave_the_win_rate() -> None:
    wins = np.array([1.0, 1.0, 1.0, 0.0])
    assert length_fit(wins, np.full(4, 5.0)).win_rate == pytest.approx(0.75, abs=0.01)
    assert 0.9 < length_fit(np.ones(9), np.arange(9.0)).win_rate <= 1.0  # finite although every answer wins
    value, low, high = controlled_interval(np.ones(9), np.zeros(9))  # 9 of 9 is not certainty: Wilson's bounds
    assert (low, high) == pytest.approx((9 / (9 + 1.959964**2), 1.0), abs=1e-6)
    assert low < value < high
    with pytest.raises(ValueError, match="one prompt or more"):
        length_fit(np.array([]), np.array([]))
