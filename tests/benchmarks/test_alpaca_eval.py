"""AlpacaEval 2 against its published leaderboard, judgements and GLM weights, and one line for every mistake.

Over 300 lines: published figures, judgements and weights are checked one by one, then every mistake.
"""

import csv
import gzip
import json
import math
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grkd.benchmarks import _alpaca_eval_length as _length_control
from grkd.benchmarks import _alpaca_eval_score as alpaca_eval
from grkd.endpoint.judge import Judgement
from grkd.errors import UserError

DATA = Path(os.environ.get("GRKD_DATA", Path(__file__).parents[2] / "../shared/data")) / "llm" / "alpaca_eval"
MODELS = {
    "gemma-2b-it": "gemma-2b-it",
    "phi-2-sft": "phi-2-sft",
    "vicuna-7b-v1.5": "vicuna-7b-v1.5.with_glm_preference",
}
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="alpaca_eval is not there; set GRKD_DATA")


@pytest.fixture(scope="module")
def library() -> Any:
    pytest.importorskip("dotenv", reason="needs pip install 'grkd[eval]'")
    try:
        return _length_control._glm()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def no_network_and_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be downloaded, and the user's own cache must not decide."""
    monkeypatch.setattr(_length_control, "_cached", lambda: None)
    if "alpaca_eval.metrics.glm_winrate" in sys.modules:

        def refuse(*_: Any, **__: Any) -> str:
            raise AssertionError("asked the hub")

        monkeypatch.setattr(sys.modules["alpaca_eval.metrics.glm_winrate"], "hf_hub_download", refuse)


def published(model: str) -> dict[str, str]:
    with (DATA / "leaderboard_weighted_alpaca_eval_gpt4_turbo.csv").open(encoding="utf-8") as stream:
        return next(row for row in csv.DictReader(stream) if row[""] == model)


def annotations(model: str) -> list[dict[str, Any]]:
    return alpaca_eval.read_annotations(DATA / "annotations" / f"{MODELS[model]}.json.gz")


def judgement(text: str, alternatives: dict[str, Any] | None = None) -> Judgement:
    tokens = [{"token": token, "logprob": value} for token, value in (alternatives or {}).items()]
    logprobs = None if alternatives is None else [{"token": text, "logprob": -1.0, "top_logprobs": tokens}]
    return Judgement(text=text, logprobs=logprobs, prompt_tokens=1, completion_tokens=1, seconds=0.0)


def made(count: int = 12, **changes: Any) -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [
        {
            "instruction": f"do {number}",
            "output_1": "b" * draw.randrange(1, 90),
            "output_2": "m" * draw.randrange(1, 90),
            "generator_1": alpaca_eval.BASELINE,
            "generator_2": "student",
            "preference": 1 + draw.random(),
            **changes,
        }
        for number in range(count)
    ]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of gamed baselines over 12 instructions of very different difficulty."""
    draw = np.random.default_rng(0)
    lines = ["model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline"]
    lines += [
        f"{name},{index},{draw.uniform(0.1, 0.9)},{draw.normal()},{index - 6.0},False"
        for name in ("verbose", "concise")
        for index in range(12)
    ]
    (tmp_path / "df_gamed.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "df_gamed.csv"


@needs_data
@pytest.mark.parametrize("model", MODELS)
class TestPublished:
    def test_win_rate_and_length_controlled_win_rate(self, model: str, library: Any) -> None:
        rows = annotations(model)
        found, row = alpaca_eval.score(rows, difficulty=DATA.parent), published(model)
        assert found["win_rate"] == pytest.approx(float(row["win_rate"]), abs=1e-6)
        assert found["standard_error"] == pytest.approx(float(row["standard_error"]), abs=1e-6)
        assert found["discrete_win_rate"] == pytest.approx(float(row["discrete_win_rate"]), abs=1e-6)
        assert found["length_controlled_win_rate"] == pytest.approx(float(row["length_controlled_winrate"]), abs=0.2)
        assert (found["n"], found["unparsable"], found["length_controlled_note"]) == (805, 0, None)
        assert (found["model"], found["baseline"]) == (model, "gpt4_1106_preview")
        normal = [found["win_rate"] + side * 1.96 * found["standard_error"] for side in (-1, 1)]
        assert [found["low"], found["high"]] == pytest.approx(normal, abs=0.25)
        json.dumps(found, allow_nan=False)

    def test_published_judgements_give_the_published_preferences(self, model: str) -> None:
        # The raw answers are in the order in which the judge saw the outputs, so the draw of the order is tested too.
        switched, compared = 0, 0
        for row in annotations(model):
            raw = row["raw_completion"]
            if raw is None:
                continue
            alternatives = {each["token"]: each["logprob"] for each in raw["logprobs"]["content"][0]["top_logprobs"]}
            found = alpaca_eval.parse(judgement(raw["text"], alternatives), instruction=row["instruction"])
            assert found == pytest.approx(row["preference"], abs=1e-8)
            switched += alpaca_eval.is_switched(row["instruction"])
            compared += 1
        assert compared >= 800
        assert 350 < switched < 450

    def test_the_order_of_rows_does_not_matter(self, model: str, library: Any) -> None:
        rows = annotations(model)
        whole = alpaca_eval.score(rows, difficulty=DATA)
        shuffled = random.Random(1).sample(rows, len(rows))
        found = alpaca_eval.score(shuffled, difficulty=DATA)
        assert found["length_controlled_win_rate"] == pytest.approx(whole["length_controlled_win_rate"], abs=1e-9)


class TestScore:
    def test_win_rate_by_hand(self, library: Any) -> None:
        rows = made(4)
        for row, preference in zip(rows, (1.0, 2.0, 0, None), strict=True):
            row["preference"] = preference
        found = alpaca_eval.score(rows)
        assert found["win_rate"] == pytest.approx(50.0)  # lost, won, a draw
        assert found["standard_error"] == pytest.approx(100 * np.std([0, 1, 0.5], ddof=1) / math.sqrt(3))
        assert (found["n"], found["unparsable"]) == (3, 1)
        assert (found["low"], found["high"]) == pytest.approx((0, 100))  # 1 of 27 resamples is all lost, 1 all won
        assert found["length_controlled_win_rate"] is None
        assert "hf download" in found["length_controlled_note"]

    def test_length_control_takes_the_difficulty_of_the_right_instruction(self, table: Path, library: Any) -> None:
        rows = made()
        for number, row in enumerate(rows):  # won exactly where the instruction is hard
            row["preference"] = 1.99 if number > 6 else 1.01
        plain = alpaca_eval.score(rows, difficulty=table)
        numbered = [row | {"index": number} for number, row in enumerate(rows)]
        assert alpaca_eval.score(numbered, difficulty=table) == plain
        turned = alpaca_eval.score(numbered[::-1], difficulty=table.parent)
        assert turned["length_controlled_win_rate"] == pytest.approx(plain["length_controlled_win_rate"], abs=1e-9)
        wrong = alpaca_eval.score(rows[::-1], difficulty=table)
        assert abs(wrong["length_controlled_win_rate"] - plain["length_controlled_win_rate"]) > 1
        listed = [json.dumps({"index": number, "instruction": row["instruction"]}) for number, row in enumerate(rows)]
        (table.parent / "instructions_805.jsonl").write_text("\n".join(listed) + "\n", encoding="utf-8")
        by_text = alpaca_eval.score(rows[::-1], difficulty=table)
        assert by_text["length_controlled_win_rate"] == pytest.approx(plain["length_controlled_win_rate"], abs=1e-9)

    def test_longer_answers_win_less_under_length_control(self, table: Path, library: Any) -> None:
        rows = made()
        for number, row in enumerate(rows):  # longer and better in all but every fourth
            row |= {"output_1": "b" * 50, "output_2": "m" * (40 if number % 4 == 0 else 60)}
            row["preference"] = 1.02 if number % 4 == 0 else 1.98
        found = alpaca_eval.score(rows, difficulty=table)
        assert found["win_rate"] == pytest.approx(74.0)
        assert 45 < found["length_controlled_win_rate"] < 65
        assert found["length_controlled_standard_error"] > 0
        for row in rows:  # the same wins, of the shorter answers
            row["output_1"] = "b" * (100 - len(row["output_1"]) if row["preference"] > 1.5 else 20)
            row["output_2"] = "m" * (100 - len(row["output_2"]))
        shorter = alpaca_eval.score(rows, difficulty=table)
        assert shorter["win_rate"] == found["win_rate"]
        assert shorter["length_controlled_win_rate"] > found["length_controlled_win_rate"] + 10

    def test_a_slice_and_unparsable_rows(self, table: Path, library: Any) -> None:
        rows = [row | {"index": index} for index, row in enumerate(made())][3:9]
        rows[1]["preference"] = None
        found = alpaca_eval.score(rows, difficulty=table)
        assert (found["n"], found["unparsable"], found["length_controlled_note"]) == (5, 1, None)
        assert 0 < found["length_controlled_win_rate"] < 100
        assert "first instructions" in alpaca_eval.score(made(5), difficulty=table)["length_controlled_note"]

    @pytest.mark.parametrize(
        ("change", "note"),
        [
            ({"preference": None}, "no preference"),
            ({"output_1": "same", "output_2": "same"}, "same difference of lengths"),
            ({"index": 12}, "from 0 to 11"),
            ({"index": True}, "from 0 to 11"),
            ({"index": 3}, "occurs twice"),
        ],
    )
    def test_why_there_is_no_length_control(self, change: dict[str, Any], note: str, table: Path, library: Any) -> None:
        found = alpaca_eval.score(made(**change), difficulty=table)
        assert found["length_controlled_win_rate"] is None
        assert note in found["length_controlled_note"]
        assert (found["win_rate"] is None) == (change.get("preference", 1) is None)

    def test_instructions_that_are_not_the_benchmark_s(self, table: Path, library: Any) -> None:
        assert "13 rows for 12" in alpaca_eval.score(made(13), difficulty=table)["length_controlled_note"]
        (table.parent / "instructions_805.jsonl").write_text('{"index": 0, "instruction": "do 0"}\n', encoding="utf-8")
        assert "row 2: its instruction" in alpaca_eval.score(made(), difficulty=table)["length_controlled_note"]

    def test_the_baseline_against_itself(self, table: Path, library: Any) -> None:
        found = alpaca_eval.score(made(generator_2=alpaca_eval.BASELINE), difficulty=table)
        assert found["length_controlled_win_rate"] == 50

    def test_settings_of_others_are_left_alone(self, table: Path, library: Any) -> None:
        from sklearn import get_config

        before, rows = get_config(), made()
        copy = json.loads(json.dumps(rows))
        hub = library.hf_hub_download
        alpaca_eval.score(rows, difficulty=table)
        assert (get_config(), rows, library.hf_hub_download) == (before, copy, hub)
        assert before["enable_metadata_routing"] is False

    def test_mistakes(self, table: Path, tmp_path: Path, library: Any) -> None:
        rows = made()
        with pytest.raises(UserError, match="generator_2 must be one name, found 'other', 'student'"):
            alpaca_eval.score([*rows, rows[0] | {"generator_2": "other"}])
        with pytest.raises(UserError, match="no row"):
            alpaca_eval.score([])
        with pytest.raises(UserError, match=r"baseline .* is 'davinci', expected 'gpt4_1106_preview'"):
            alpaca_eval.score(made(generator_1="davinci"))
        with pytest.raises(UserError, match=r"none.csv: no such file; name df_gamed.csv"):
            alpaca_eval.score(rows, difficulty=tmp_path / "none.csv")
        table.write_text("index,instruction_difficulty\n0,1\n", encoding="utf-8")
        with pytest.raises(UserError, match="no column 'preference'"):
            alpaca_eval.score(rows, difficulty=table)
        table.write_text("", encoding="utf-8")
        with pytest.raises(UserError, match="not a readable CSV file"):
            alpaca_eval.score(rows, difficulty=table)

    def test_other_baselines(self, library: Any) -> None:
        assert alpaca_eval.score(made(generator_1="davinci"), baseline="davinci")["baseline"] == "davinci"
        assert alpaca_eval.score(made(generator_1="gpt4_turbo"))["baseline"] == "gpt4_turbo"

    def test_the_library_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _length_control._glm.cache_clear()
        monkeypatch.setitem(sys.modules, "alpaca_eval.metrics.glm_winrate", None)
        with pytest.raises(UserError, match=r"pip install 'grkd\[eval\]'"):
            alpaca_eval.score(made())
        _length_control._glm.cache_clear()

    def test_the_hub_s_cache_is_read(self, table: Path, monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
        monkeypatch.setattr(_length_control, "_cached", lambda: table)
        assert alpaca_eval.score(made())["length_controlled_win_rate"] is not None


def test_the_cache_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.undo()  # the real look-up, into a cache of our own
    folder = tmp_path / "datasets--tatsu-lab--alpaca_eval"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        real = huggingface_hub.try_to_load_from_cache
        patch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: real(*a, cache_dir=tmp_path, **k))
        assert _length_control._cached() is None
        (folder / "snapshots" / "abc" / "df_gamed.csv").write_text("index\n", encoding="utf-8")
        assert _length_control._cached() == folder / "snapshots" / "abc" / "df_gamed.csv"


class TestJudge:
    def test_the_prompt_is_the_package_s(self, library: Any) -> None:
        import pandas as pd
        from alpaca_eval import constants, utils

        path = constants.EVALUATORS_CONFIG_DIR / "alpaca_eval_clf_gpt4_turbo" / "alpaca_eval_clf.txt"
        for number in range(6):
            instruction = f"What is {number}?\nSay why."
            values = {"instruction": instruction, "output_1": "base", "output_2": "mine"}
            if alpaca_eval.is_switched(instruction):
                values |= {"output_1": "mine", "output_2": "base"}
            prompts, _ = utils.make_prompts(pd.DataFrame([values]), path.read_text(encoding="utf-8"))
            asked = alpaca_eval.judge_request(instruction, "base", "mine", id="x")
            assert asked.messages == utils.prompt_to_chatml(prompts[0])
        assert (asked.max_tokens, asked.logprobs) == (1, 5)
        assert alpaca_eval.judge_request("i", "b", "m", id="x", max_tokens=9).max_tokens == 9

    def test_braces_and_marks_in_outputs_stay(self, library: Any) -> None:
        asked = alpaca_eval.judge_request("say {output_1}", "<|im_end|>", "{instruction} {x}", id="x")
        content = asked.messages[-1]["content"]
        assert all(text in content for text in ("say {output_1}", "<|im_end|>", "{instruction} {x}"))

    def test_the_order_is_the_package_s(self, library: Any) -> None:
        import pandas as pd
        from alpaca_eval import processors

        rows = pd.DataFrame([{"instruction": f"do {n}", "output_1": "b", "output_2": "m"} for n in range(40)])
        switch = processors.RandomSwitchTwoColumnsProcessor(
            two_columns_to_switch=["output_1", "output_2"],
            random_seed_columns=["instruction"],
            _switch_column="is_switched_outputs",
            seed=0,
        )
        expected = list(switch.preprocess(rows)["is_switched_outputs"])
        assert [alpaca_eval.is_switched(f"do {n}") for n in range(40)] == expected
        assert 10 < sum(expected) < 30

    def test_a_log_probability_that_is_not_a_number_makes_a_judgement_unparsable(self) -> None:
        assert alpaca_eval.parse(judgement("m", {"m": None, "M": -0.1}), instruction="a") is None
        assert alpaca_eval.parse(judgement("m", {"x": None}), instruction="a") is not None

    @pytest.mark.parametrize(
        ("alternatives", "expected"),
        [
            ({"m": -0.1, "M": -2.0}, 2 - math.exp(-0.1) / (math.exp(-0.1) + math.exp(-2.0))),
            ({"M": -0.1, "m": -2.0, "x": 0.0}, 2 - math.exp(-2.0) / (math.exp(-0.1) + math.exp(-2.0))),
            ({"m": -3.0, "x": -0.1}, 1.0),
            ({"M": -3.0}, 2.0),
            ({"M": 0.0, "m": -9999.0}, 2.0),
            ({"m": 0.0, "M": -9999.0}, 1.0),
        ],
    )
    def test_weighted_preference(self, alternatives: dict[str, float], expected: float, library: Any) -> None:
        from alpaca_eval.completion_parsers import logprob_parser

        kept, turned = (next(t for t in "abcdefgh" if alpaca_eval.is_switched(t) is state) for state in (False, True))
        judged = judgement("m", alternatives)
        assert alpaca_eval.parse(judged, instruction=kept) == pytest.approx(expected)
        assert alpaca_eval.parse(judged, instruction=turned) == pytest.approx(3 - expected)
        completion = {"logprobs": {"content": judged.logprobs}}
        theirs = logprob_parser(completion, "m", ["m", "M"], is_binarize=False)
        assert theirs == pytest.approx([expected])

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("m", 1),
            ("M", 2),
            (" M\n", 2),
            ('"m".', 1),
            ("`M`", 2),
            ("Model M", None),
            ("mM", None),
            ("", None),
            ("The", None),
        ],
    )
    def test_the_choice_where_there_are_no_logprobs(self, text: str, expected: float | None) -> None:
        kept, turned = (next(t for t in "abcdefgh" if alpaca_eval.is_switched(t) is state) for state in (False, True))
        for judged in (judgement(text), judgement(text, {}), judgement(text, {" m": -0.1})):
            assert alpaca_eval.parse(judged, instruction=kept) == expected
            assert alpaca_eval.parse(judged, instruction=turned) == (None if expected is None else 3 - expected)


class TestFiles:
    def test_lines_lists_and_gzip_are_the_same(self, tmp_path: Path) -> None:
        rows = made(3)
        (tmp_path / "a.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")
        (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        (tmp_path / "c.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
        for name in ("a.json", "b.jsonl", "c.json.gz"):
            assert alpaca_eval.read_annotations(tmp_path / name) == rows

    def test_nan_is_no_preference(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(json.dumps(made(1, preference=math.nan)), encoding="utf-8")
        assert alpaca_eval.read_annotations(tmp_path / "a.json")[0]["preference"] is None

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"preference": 2.5}, "'preference' must be from 1 (baseline) to 2 (model), 0 for a draw or null, got 2.5"),
            ({"preference": 0.5}, "got 0.5"),
            ({"preference": "1"}, "got '1'"),
            ({"preference": True}, "got True"),
            ({"output_2": None}, "'output_2' must be a text, got None"),
            ({"generator_1": 3}, "'generator_1' must be a text, got 3"),
            ({"instruction": ["a\nb"] * 200}, "'instruction' must be a text"),
        ],
    )
    def test_one_line_for_a_malformed_row(self, change: dict[str, Any], message: str, tmp_path: Path) -> None:
        rows = made(3)
        rows[1] |= change
        path = tmp_path / "a.json"
        for text, place in ((json.dumps(rows), "row 2: "), ("\n".join(map(json.dumps, rows)), "line 2: ")):
            path.write_text(text, encoding="utf-8")
            with pytest.raises(UserError) as raised:
                alpaca_eval.read_annotations(path)
            assert f"{path}, {place}" in str(raised.value)
            assert message in str(raised.value)
            assert "\n" not in str(raised.value)
            assert len(str(raised.value)) < len(str(path)) + 200

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        with pytest.raises(UserError, match=r"a.json: no such file; name a JSON or JSONL file of annotations"):
            alpaca_eval.read_annotations(path)
        for text, message in (("[]", "no annotations in it"), ("[{", "not JSON"), ("hello", "line 1: not JSON")):
            path.write_text(text, encoding="utf-8")
            with pytest.raises(UserError, match=message):
                alpaca_eval.read_annotations(path)
        rows = made(1)
        del rows[0]["preference"]
        path.write_text(json.dumps(rows), encoding="utf-8")
        with pytest.raises(UserError, match="row 1: no 'preference' in it"):
            alpaca_eval.read_annotations(path)
