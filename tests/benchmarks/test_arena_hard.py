"""Arena-Hard against its published leaderboard, scores worked out by hand, and a plain form of its own fit.

Over 300 lines: a plain form of the benchmark's fit is written out as the oracle.
"""

import gzip
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from grkd.benchmarks import _arena_hard_judge as judging
from grkd.benchmarks import _arena_hard_score as arena_hard
from grkd.errors import UserError

DATA = Path(os.environ.get("GRKD_DATA", Path(__file__).parents[2] / "../shared/data")) / "llm"
PUBLISHED = DATA / "arena_hard" / "battles_gpt-3.5-turbo-0125.jsonl"
needs_data = pytest.mark.skipif(not PUBLISHED.is_file(), reason="arena_hard is not there; set GRKD_DATA")


def battle(winner: str | None, *, question: str = "q", model: str = "student") -> dict[str, Any]:
    return {"question_id": question, "model_a": arena_hard.BASELINE, "model_b": model, "winner": winner}


def some(wins: int, ties: int, losses: int, *, model: str = "student") -> list[dict[str, Any]]:
    winners = ["model_b"] * wins + ["tie"] * ties + ["model_a"] * losses
    return [battle(winner, question=f"q{number}", model=model) for number, winner in enumerate(winners)]


def config(folder: Path, **changes: Any) -> Path:
    import yaml

    values = {
        "prompt_template": "Q: {QUESTION}\nA: {ANSWER_A}\nB: {ANSWER_B}",
        "regex_patterns": [r"\[\[([AB<>=]+)\]\]", r"\[([AB<>=]+)\]"],
        "max_tokens": 77,
    }
    (folder / "arena_hard").mkdir(exist_ok=True)
    (folder / "arena_hard" / "judge_config.yaml").write_text(yaml.safe_dump(values | changes), encoding="utf-8")
    return folder


@needs_data
class TestPublished:
    def test_gpt_3_5_turbo_has_its_published_score(self) -> None:
        found = arena_hard.score(arena_hard.read_battles(PUBLISHED))
        row = next(
            line.split(",")
            for line in (DATA / "arena_hard" / "leaderboard_20240731.csv").read_text(encoding="utf-8").splitlines()
            if line.startswith("gpt-3.5-turbo-0125,")
        )
        assert float(row[1]) == 23.34
        assert found["win_rate"] == pytest.approx(23.34, abs=0.01)
        assert found["score"] == pytest.approx(23.34, abs=0.01)
        assert found["score"] == pytest.approx(found["win_rate"], abs=1e-5)
        # The published interval has its own 100 draws, over the battles of all models.
        assert found["low"] == pytest.approx(float(row[2]), abs=0.7)
        assert found["high"] == pytest.approx(float(row[3]), abs=0.7)
        assert (found["n"], found["questions"], found["unparsable"]) == (1414, 500, 0)

    def test_drawing_questions_gives_a_wider_interval(self) -> None:
        found = arena_hard.score(arena_hard.read_battles(PUBLISHED))
        assert found["question_high"] - found["question_low"] > 1.2 * (found["high"] - found["low"])

    def test_the_published_configuration_is_read(self) -> None:
        protocol = judging.read_protocol(DATA)
        assert protocol.judge_model == judging.BENCHMARK_JUDGE
        assert (protocol.max_tokens, protocol.temperature) == (4096, 0.0)
        assert "no system_prompt" in (protocol.own_prompt or "")
        asked = judging.judge_request(protocol, "why?", "base", "mine", game=2, id="x").messages[1]["content"]
        assert asked.index("why?") < asked.index("mine") < asked.index("base")
        assert "{" not in asked


class TestScore:
    def test_by_hand(self) -> None:
        found = arena_hard.score(some(3, 2, 5), bootstrap=5)
        assert found["win_rate"] == pytest.approx(40.0)
        assert found["score"] == pytest.approx(40.0, abs=1e-4)
        assert {name: found[name] for name in ("n", "wins", "ties", "losses", "questions", "unparsable")} == {
            "n": 10, "wins": 3, "ties": 2, "losses": 5, "questions": 10, "unparsable": 0
        }  # fmt: skip
        assert (found["model"], found["baseline"]) == ("student", "gpt-4-0314")
        json.dumps(found, allow_nan=False)

    def test_the_interval_is_that_of_the_benchmark(self) -> None:
        # Every battle twice, a tie once each way, ratings fitted by maximum likelihood: one number, so by hand here.
        rows = some(7, 5, 18)
        shares = np.array([{"model_a": 0.0, "tie": 0.5, "model_b": 1.0}[row["winner"]] for row in rows])
        np.random.seed(3)  # noqa: NPY002
        ratings = []
        for _ in range(40):
            drawn = shares[np.random.choice(30, size=30, replace=True)]  # noqa: NPY002

            def nll(rating: np.ndarray, drawn: np.ndarray = drawn) -> float:
                wins, losses = drawn.sum() * 2, (1 - drawn).sum() * 2
                return float(wins * np.logaddexp(0, -rating[0]) + losses * np.logaddexp(0, rating[0]))

            ratings.append(minimize(nll, [0.0], tol=1e-12).x[0])
        low, high = (100 / (1 + math.exp(-bound)) for bound in np.percentile(ratings, [2.5, 97.5]))
        found = arena_hard.score(rows, bootstrap=40, seed=3)
        assert found["low"] == pytest.approx(low, abs=1e-3)
        assert found["high"] == pytest.approx(high, abs=1e-3)
        assert arena_hard.score(rows, bootstrap=40, seed=3) == found
        assert arena_hard.score(rows, bootstrap=40, seed=4)["low"] != found["low"]
        assert arena_hard.score(rows, bootstrap=1, seed=3)["low"] == arena_hard.score(rows, bootstrap=1, seed=3)["high"]

    def test_the_baseline_may_be_model_b(self) -> None:
        rows = some(3, 2, 5)
        names = {"model_a": "model_b", "model_b": "model_a", "tie": "tie"}
        turned = [
            {**row, "model_a": row["model_b"], "model_b": row["model_a"], "winner": names[row["winner"]]}
            for row in rows
        ]
        assert arena_hard.score(turned, bootstrap=5) == arena_hard.score(rows, bootstrap=5)

    def test_unparsable_battles_count_nowhere_but_in_their_count(self) -> None:
        rows = some(3, 2, 5)
        found = arena_hard.score([*rows[:4], battle(None), *rows[4:], battle(None)], bootstrap=5)
        plain = arena_hard.score(rows, bootstrap=5)
        assert found["unparsable"] == 2
        assert {**found, "unparsable": 0, "questions": 10} == plain | {
            name: found[name] for name in ("question_low", "question_high")
        }

    def test_always_won_and_never_parsed(self) -> None:
        found = arena_hard.score(some(6, 0, 0), bootstrap=5)
        assert found["win_rate"] == 100
        assert found["score"] == pytest.approx(100, abs=0.01)
        assert arena_hard.score(some(0, 0, 6), bootstrap=5)["score"] == pytest.approx(0, abs=0.01)
        nothing = arena_hard.score([battle(None)])
        assert (nothing["win_rate"], nothing["score"], nothing["low"], nothing["n"]) == (None, None, None, 0)

    def test_several_models(self) -> None:
        rows = some(3, 2, 5) + some(9, 0, 1, model="teacher")
        found = arena_hard.score(rows, bootstrap=20)["models"]
        assert list(found) == ["student", "teacher"]
        assert found["student"]["score"] == pytest.approx(40, abs=1e-4)
        assert found["teacher"]["score"] == pytest.approx(90, abs=1e-4)
        assert found["teacher"]["low"] < 90 < found["teacher"]["high"]
        # A model that some resamples have no battle of.
        rare = arena_hard.score(some(8, 0, 8) + some(1, 1, 0, model="rare"))["models"]["rare"]
        assert rare["score"] == pytest.approx(75, abs=1e-4)
        assert 0 <= rare["low"] <= rare["high"] <= 100

    def test_mistakes(self) -> None:
        with pytest.raises(UserError, match=r"battle 2: a against b; one must be the baseline gpt-4-0314"):
            arena_hard.score([battle("tie"), {"question_id": 1, "model_a": "a", "model_b": "b", "winner": "tie"}])
        with pytest.raises(UserError, match="none to score"):
            arena_hard.score([])
        with pytest.raises(ValueError, match="bootstrap"):
            arena_hard.score(some(1, 1, 1), bootstrap=0)
        other = [{"question_id": 1, "model_a": "a", "model_b": "b", "winner": "model_b"}]
        assert arena_hard.score(other, baseline="a", bootstrap=5)["win_rate"] == 100


class TestVerdicts:
    @pytest.mark.parametrize(
        ("text", "label"),
        [
            ("So my verdict: [[A>>B]]", "A>>B"),
            ("[[B>A]] ... again [[B>A]]", "B>A"),
            ("only [A=B]", "A=B"),
            ("[[A>B]] or [B>A]", "A>B"),  # the first pattern decides
            ("[[A>B]] no, [[B>A]]", None),
            ("[[A]]", None),
            ("[[A>>>B]]", None),
            ("A is better", None),
            ("", None),
        ],
    )
    def test_labels(self, text: str, label: str | None, tmp_path: Path) -> None:
        assert judging.parse(text, protocol=judging.read_protocol(config(tmp_path))) == label

    @pytest.mark.parametrize(
        ("first", "second", "share", "count"),
        [
            ("A>>B", "B>>A", 0.0, 6),  # the baseline is A, then B: it wins both, by much
            ("B>>A", "A>B", 1.0, 4),
            ("B>A", "B>A", 0.5, 2),
            ("A=B", "A=B", 0.5, 2),
            ("B<<A", "B=A", 0.5 / 4, 4),
            ("A<B", "A<<B", 1 / 4, 4),
        ],
    )
    def test_battles(self, first: str, second: str, share: float, count: int) -> None:
        rows = arena_hard.battles_of("q1", "student", [first, second])
        found = arena_hard.score(rows, bootstrap=5)
        assert found["win_rate"] == pytest.approx(100 * share)
        assert (found["n"], found["questions"]) == (count, 1)

    def test_an_unread_game_leaves_the_other(self) -> None:
        rows = arena_hard.battles_of("q1", "student", [None, "A>B"])
        assert [row["winner"] for row in rows] == [None, "model_b"]
        assert arena_hard.battles_of("q1", "student", ["nonsense", "A=B"])[0]["winner"] is None
        assert [row["winner"] for row in arena_hard.battles_of("q1", "student", ["A>B"], baseline="x")] == ["model_a"]


class TestProtocol:
    def test_both_orders_and_braces_left_alone(self, tmp_path: Path) -> None:
        protocol = judging.read_protocol(config(tmp_path))
        first, second = (
            judging.judge_request(protocol, "q {ANSWER_A}", "base", "mine {ANSWER_B}", game=game, id=f"g{game}")
            for game in (1, 2)
        )
        assert first.messages[1]["content"] == "Q: q {ANSWER_A}\nA: base\nB: mine {ANSWER_B}"
        assert second.messages[1]["content"] == "Q: q {ANSWER_A}\nA: mine {ANSWER_B}\nB: base"
        assert first.max_tokens == 77
        assert judging.judge_request(protocol, "q", "b", "m", game=1, id="x", max_tokens=5).max_tokens == 5
        # Our own system prompt offers every label that is then read.
        for label in ("A>>B", "A>B", "A=B", "B>A", "B>>A"):
            assert f"[[{label}]]" in first.messages[0]["content"]

    def test_the_older_configuration(self, tmp_path: Path) -> None:
        old = config(
            tmp_path,
            prompt_template=["{question_1}|{answer_1}|{answer_2}"],
            system_prompt="Be fair.",
            regex_pattern=r"<(A|B)>",
            regex_patterns=None,
        )
        protocol = judging.read_protocol(old)
        asked = judging.judge_request(protocol, "q", "base", "mine", game=1, id="x")
        assert [message["content"] for message in asked.messages] == ["Be fair.", "q|base|mine"]
        assert protocol.own_prompt is None
        assert [pattern.pattern for pattern in protocol.patterns] == ["<(A|B)>"]

    def test_a_prompt_that_is_given(self, tmp_path: Path) -> None:
        prompt = tmp_path / "judge.txt"
        prompt.write_text("Judge {QUESTION} well.\n")
        for system in (None, "Be fair."):
            protocol = judging.read_protocol(config(tmp_path, system_prompt=system), prompt=prompt)
            asked = judging.judge_request(protocol, "q", "b", "m", game=1, id="x")
            assert asked.messages[0] == {"role": "system", "content": "Judge {QUESTION} well."}
            digest = hashlib.sha256(prompt.read_bytes()).hexdigest()
            assert protocol.own_prompt == f"the judge's system prompt was judge.txt, SHA-256 {digest}"
        prompt.write_text(" \n")
        with pytest.raises(UserError, match=r"--judge-prompt .*judge\.txt: nothing in it"):
            judging.read_protocol(config(tmp_path), prompt=prompt)
        with pytest.raises(UserError, match=r"absent: no such file; give the judge's system prompt \(--judge-prompt\)"):
            judging.read_protocol(config(tmp_path), prompt=tmp_path / "absent")

    def test_mistakes(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"judge_config.yaml: no such file; get arena_hard/"):
            judging.read_protocol(tmp_path)
        for changes in ({"prompt_template": None}, {"regex_patterns": ["("]}, {"max_tokens": "many"}):
            with pytest.raises(UserError, match="not a judge's configuration") as raised:
                judging.read_protocol(config(tmp_path, **changes))
            assert "\n" not in str(raised.value)
        protocol = judging.read_protocol(config(tmp_path, prompt_template="{QUESTION} {REFERENCE}"))
        with pytest.raises(UserError, match=r"unknown \{REFERENCE\}"):
            judging.judge_request(protocol, "q", "b", "m", game=1, id="x")


def test_battles_by_question() -> None:
    battles = [
        *arena_hard.battles_of("q", "m", ["B>>A", None]),  # three wins, one that cannot be read
        *arena_hard.battles_of("r", "m", ["A>B", "A=B"]),  # a loss and a tie
        *arena_hard.battles_of("s", "m", [None, None]),
    ]
    items = arena_hard.question_items(battles)
    assert items == [
        {"id": "q", "win_percent": 100.0, "battles": 3},
        {"id": "r", "win_percent": 25.0, "battles": 2},
        {"id": "s", "win_percent": None, "battles": 0},
    ]
    total = sum(item["win_percent"] * item["battles"] for item in items[:2]) / 5
    assert arena_hard.score(battles)["win_rate"] == pytest.approx(total)


class TestFiles:
    def test_lines_lists_and_gzip_are_the_same(self, tmp_path: Path) -> None:
        rows = some(1, 1, 1)
        lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
        (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
        (tmp_path / "b.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        (tmp_path / "c").write_bytes(gzip.compress(lines.encode()))
        for name in ("a.jsonl", "b.json", "c"):
            assert arena_hard.read_battles(tmp_path / name) == rows

    def test_judgements_become_battles(self, tmp_path: Path) -> None:
        rows = [
            {"uid": "u1", "model": "student", "games": [{"score": "A>>B"}, {"score": None}]},
            {"question_id": 2, "model": "student", "games": [None, {"score": "A=B", "judgment": "..."}]},
        ]
        path = tmp_path / "judgement.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        found = arena_hard.read_battles(path)
        assert [(row["question_id"], row["winner"]) for row in found] == [
            *[("u1", "model_a")] * 3, ("u1", None), ("2", None), ("2", "tie")
        ]  # fmt: skip

    def test_both_bad_is_a_tie(self, tmp_path: Path) -> None:
        path = tmp_path / "battles.jsonl"
        path.write_text(json.dumps(battle("tie (bothbad)")), encoding="utf-8")
        assert arena_hard.read_battles(path)[0]["winner"] == "tie"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "no battles in it"),
            ("{}", "line 1: no 'question_id'"),
            ('{"question_id": 1, "model_a": "a"', "line 1: not JSON"),
            ("[1]", "row 1: not a JSON object"),
            ("[{]", "not JSON"),
            (json.dumps(battle("student")), "line 1: 'winner' must be model_a, model_b, tie or null, got 'student'"),
            ("\n\n" + json.dumps({**battle("tie"), "model_b": None}), "line 3: 'model_b' must be a model's name"),
            ('{"question_id": 1, "model_a": "a", "model_b": "b"}', "line 1: no 'winner'"),
            ('{"uid": 1, "model": "a", "games": {}}', "line 1: a judgement has 'model' and 'games'"),
            ('{"uid": 1, "model": "a", "games": [{"score": [1]}]}', "line 1: a judgement has"),
            ('{"uid": 1, "model": "a", "games": [{}]}', "line 1: a judgement has"),
            (json.dumps(battle("x" * 400)), "line 1: 'winner' must be"),
        ],
    )
    def test_one_line_for_a_malformed_file(self, text: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "battles.jsonl"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError) as raised:
            arena_hard.read_battles(path)
        assert message in str(raised.value)
        assert str(raised.value).startswith(str(path))
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < len(str(path)) + 200

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file"):
            arena_hard.read_battles(tmp_path / "none.jsonl")
        for content in (
            b"\x1f\x8bnot gzip",
            gzip.compress(b"{}" * 999)[:-9],
            b"\xff\xfe\x00",
            gzip.compress(b"x")[:14] + b"zz",
        ):
            (tmp_path / "bad").write_bytes(content)
            with pytest.raises(UserError, match="not a text or gzip file"):
                arena_hard.read_battles(tmp_path / "bad")
