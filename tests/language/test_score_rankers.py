"""The score stage with rankers from the recipe: what they read, what is stored of them, and what training gets."""

import json
import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd import objectives, rankers
from grkd.errors import UserError
from grkd.language.models import LanguageModels
from grkd.language.score import read_groups, score
from grkd.recipe import LanguageRecipe, read
from grkd.training import LanguageRows
from tests._endpoint_server import EndpointServer
from tests.language._score_runs import Prepared, records, save_llama, table, tokenizer

VERIFIER = "{name: verifier, kind: text, answer: solution}"


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("teacher"), tokenizer())


def prepared(folder: Path, teacher: Path, listed: str, *words: str, **columns: Any) -> Prepared:
    """Six groups of three, whose prompts stand in data files with these columns (of one group each: by its number)."""
    responses = records(6, 3)
    lines: dict[str, dict[str, str]] = {"train": {}, "heldout": {}}
    for record in responses:
        number = int(record["group"][1:])
        columns_of = {name: value(record, responses) for name, value in columns.items()}
        line = {"id": record["group"], "prompt": record["prompt"], **columns_of}
        lines[record["split"]].setdefault(record["group"], json.dumps(line))
        record["group"] = f"{record['split']}/p{number}"
    for split, texts in lines.items():
        (folder / f"{split}.jsonl").write_text("\n".join(texts.values()))
    data = [f"data.{split}={folder / split}.jsonl" for split in lines]
    return Prepared(folder, teacher, responses, *data, f"score.rankers=[{listed}]", *words)


def scored(run: Prepared) -> dict[str, dict[str, Any]]:
    score(run.context)
    return table(run)


def second_response(record: dict[str, Any], responses: list[dict[str, Any]]) -> str:
    """The solution is what the group's second response says."""
    return next(r["response"] for r in responses if r["prompt"] == record["prompt"] and r["index"] == 1)


def told(run: Prepared) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.run.path / "score" / "rankers.json").read_text())
    return found


def test_first_the_verifier_then_the_teacher(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = prepared(tmp_path, teacher, f"{VERIFIER}, log_prob", "score.combine=lexicographic", solution=second_response)
    found = scored(run)
    for number in range(6):
        rows = [found[f"p{number}#{place}"] for place in range(3)]
        keys = [(row["ranker_scores"][0], row["teacher_mean_log_prob_nats"]) for row in rows]
        assert keys[1][0] == 1.0
        assert [row["ranker_scores"][1] for row in rows] == [key[1] for key in keys]
        levels = sorted(set(keys))
        expected = [levels.index(key) / (len(levels) - 1) for key in keys]
        assert [row["teacher_reward"] for row in rows] == pytest.approx(expected)
    said = " ".join(capsys.readouterr().err.split())
    assert "rankers on 6 groups of 18 responses" in said
    assert "Kendall tau" in said
    assert told(run)["labels"] == ["verifier", "log_prob"]
    agreement = told(run)["agreement"]
    assert agreement["rankers"]["verifier"]["right"] == pytest.approx(
        np.mean([row["ranker_scores"][0] for row in found.values()])
    )
    assert agreement["rankers"]["log_prob"]["abstentions"] == 0


def test_votes_reach_the_groups(tmp_path: Path, teacher: Path) -> None:
    """Of the second group the verifier knows nothing; the third's grades lack one."""

    def solution(record: dict[str, Any], responses: list[dict[str, Any]]) -> str | None:
        return None if record["group"] == "p1" else second_response(record, responses)

    def grades(record: dict[str, Any], responses: list[dict[str, Any]]) -> list[float | None]:
        return [1.0, None, 3.0] if record["group"] == "p2" else [2.0, 2.0, 1.0]

    listed = f"{VERIFIER}, {{name: data, column: grades, weight: 2.0}}"
    run = prepared(tmp_path, teacher, listed, "score.combine=votes", solution=solution, grades=grades)
    found = scored(run)
    for group in read_groups(run.run, "train") + read_groups(run.run, "heldout"):
        by_ranker = [
            np.array([[math.nan if value is None else value for value in values]])
            for values in zip(*(found[item.id]["ranker_scores"] for item in group.items), strict=True)
        ]
        expected = rankers.votes(by_ranker, [1.0, 2.0])
        assert group.votes is not None
        np.testing.assert_array_equal(group.votes[0], expected.share[0])
        np.testing.assert_array_equal(group.votes[1], expected.weight[0])
        np.testing.assert_array_equal(group.teacher_scores, expected.scores()[0])
    second = read_groups(run.run, "train")[1]
    assert second.votes is not None
    assert [row[2] for row in second.votes[1]] == [2.0, 2.0, 0.0], "the verifier abstains, the data ties two"
    assert told(run)["agreement"]["rankers"]["data"]["abstentions"] == pytest.approx(1 / 18)


def test_the_pair_loss_takes_shares_as_targets_and_opinions_as_weights(tmp_path: Path, teacher: Path) -> None:
    """sum_{i<j} w_ij [-q_ij log sigmoid(d_ij) - (1 - q_ij) log sigmoid(-d_ij)] / sum_{i<j} w_ij, in plain loops."""

    def grades(record: dict[str, Any], responses: list[dict[str, Any]]) -> list[float | None]:
        return [1.0, None, 3.0] if record["group"] == "p2" else [2.0, 2.0, 1.0]

    listed = f"{VERIFIER}, {{name: data, column: grades, weight: 2.0}}"
    run = prepared(tmp_path, teacher, listed, "score.combine=votes", solution=second_response, grades=grades)
    scored(run)
    groups = read_groups(run.run, "train")
    rows = LanguageRows(pad_token_id=0, vocabulary=len(tokenizer()))
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    with torch.no_grad():
        batch = rows.forward(model, rows.collate(groups), levels=("response",)).batches["response"]
    (term,) = objectives.load("grkd", preset="responses").terms(batch)
    assert bool(term.counted.all())
    for group, student, loss in zip(groups, batch.student.double().tolist(), term.rows.tolist(), strict=True):
        assert group.votes is not None
        share, weight = group.votes
        total, opinions = 0.0, 0.0
        for i, j in combinations(range(3), 2):
            log_odds = (student[i] - student[j]) / 0.1
            total += weight[i][j] * (math.log1p(math.exp(-log_odds)) + (1 - share[i][j]) * log_odds)
            opinions += weight[i][j]
        assert loss == pytest.approx(total / opinions, rel=1e-4)


def test_one_ranker_keeps_its_scores_and_has_no_votes(tmp_path: Path, teacher: Path) -> None:
    run = prepared(tmp_path, teacher, VERIFIER, solution=second_response)
    assert {row["teacher_reward"] for row in scored(run).values()} == {0.0, 1.0}
    assert all(group.votes is None for group in read_groups(run.run, "train"))


def test_responses_without_a_place_are_not_compared(tmp_path: Path, teacher: Path) -> None:
    def grades(record: dict[str, Any], responses: list[dict[str, Any]]) -> list[float | None]:
        return [None, 1.0, 2.0] if record["group"] == "p0" else [None, None, None]

    run = prepared(tmp_path, teacher, "{name: data, column: grades}", grades=grades)
    scored(run)
    groups = read_groups(run.run, "train")
    assert [group.has_pair for group in groups] == [True, False, False, False]
    batch = LanguageRows(pad_token_id=0, vocabulary=40).collate(groups[:2])
    assert batch["ranked_mask"].tolist() == [[False, True, True], [False, False, False]]
    assert batch["group_mask"].all()
    assert batch["teacher_scores"].tolist() == [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
    best = LanguageRows(pad_token_id=0, vocabulary=40, trains_on="ends").collate(groups[:1])
    assert best["teacher_scores"].tolist() == [[2.0, 1.0]]


SEEN: list[dict[str, Any]] = []


def reward(prompts: list[str], completions: list[str], level: list[str], **kwargs: Any) -> list[float]:
    SEEN.append({"prompts": prompts, "completions": completions, "level": level, **kwargs})
    return [float(len(text)) for text in completions]


def test_a_reward_function_gets_text_and_columns(tmp_path: Path, teacher: Path) -> None:
    SEEN.clear()
    listed = f"{{name: function, function: '{__name__}:reward'}}"
    run = prepared(tmp_path, teacher, listed, level=lambda record, _: f"level of {record['group']}")
    found = scored(run)
    by_id = {record["id"]: record for record in records(6, 3)}
    assert all(row["teacher_reward"] == len(by_id[name]["response"]) for name, row in found.items())
    first = SEEN[0]
    assert first["prompts"] == ["w0"] * 3 + ["w3 w4"] * 3
    assert first["level"] == ["level of p0"] * 3 + ["level of p1"] * 3
    assert first["completion_ids"][0] == by_id["p0#0"]["response_ids"]


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ("{name: verifier, answer: nothing}", "reads the column 'nothing', and no record of"),
        ("{name: function, function: 'no_such_module:f'}", "no module 'no_such_module'"),
    ],
)
def test_mistakes_before_the_teacher_is_loaded(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, listed: str, said: str
) -> None:
    run = prepared(tmp_path, teacher, f"log_prob, {listed}", solution=second_response)
    monkeypatch.setattr(LanguageModels, "teacher", None)
    with pytest.raises(UserError) as raised:
        scored(run)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score.rankers=[verifyer]"], "score.rankers.0: unknown ranker 'verifyer' (did you mean 'verifier'?)"),
        (["score.rankers=[{name: verifier, kinds: text}]"], "unknown option 'kinds' (did you mean 'kind'?)"),
        (["score.rankers=[log_prob, log_prob]"], "'log_prob' appears twice"),
        (["score.rankers=[]"], "expected at least one ranker"),
        (["score.rankers=[log_prob]", "score.reward=choice"], "score.reward: given together with rankers"),
        (["score.rankers=[calibrated]", "score.calibration=0.5"], "rankers: [{name: calibrated, ratio: 0.8}]"),
        (["score.combine=votes"], "score.combine: belongs to score.rankers"),
        (["score.calibration=0.5"], "score.calibration: belongs to score.reward: calibrated"),
        (["score.rankers=[log_prob]", "score.combine=vote"], "score.combine"),
    ],
)
def test_mistakes_in_a_recipe(tmp_path: Path, tiny_recipe: Path, words: list[str], said: str) -> None:
    with pytest.raises(UserError) as raised:
        read(tiny_recipe, words)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_reward_models_folder_is_the_recipes(tiny_recipe: Path) -> None:
    with tiny_recipe.open("a") as file:
        file.write("score: {rankers: [log_prob, {name: reward_model, model: ./reward}]}\n")
    recipe = read(tiny_recipe)
    assert isinstance(recipe, LanguageRecipe)
    assert recipe.score.rankers == ["log_prob", {"name": "reward_model", "model": str(tiny_recipe.parent / "reward")}]


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    """A judge to whom the later response of two is better, and all are in reverse."""
    made = EndpointServer(lambda body: "Order: [3] > [2] > [1]", models=["judge"])
    yield made
    made.close()


class TestJudge:
    def listed(self, server: EndpointServer, **options: Any) -> str:
        return json.dumps({"name": "judge", "url": server.url, "model": "judge", "concurrency": 1, **options})

    def test_a_used_up_budget_keeps_chunks_and_answers(
        self, tmp_path: Path, teacher: Path, server: EndpointServer
    ) -> None:
        """Three chunks of two groups; two questions per group."""
        run = prepared(tmp_path, teacher, f"log_prob, {self.listed(server, max_requests=7)}")
        with pytest.raises(UserError, match="the budget of 7 requests is used up"):
            scored(run)
        partial = run.run.path / "score.partial"
        assert [path.name for path in sorted(partial.glob("scores-*"))] == ["scores-00000.parquet"]
        stamp = (partial / "scores-00000.parquet").stat().st_mtime_ns
        words = [word for word in run.words if not word.startswith("score.rankers")]
        more = run.again(*words, f"score.rankers=[log_prob, {self.listed(server, max_requests=5)}]")
        found = scored(more)
        assert len(server.asked) == 12, "nothing is asked twice"
        assert (more.run.path / "score" / "scores-00000.parquet").stat().st_mtime_ns == stamp
        assert all(row["ranker_scores"][1] == 0.5 for row in found.values()), "its habit cancels"
        assert told(more)["agreement"]["rankers"]["judge"]["position_bias"] == -0.5
        assert told(more)["agreement"]["rankers"]["judge"]["answers"] == 12

    def test_other_weights_ask_nothing(self, tmp_path: Path, teacher: Path, server: EndpointServer) -> None:
        run = prepared(tmp_path, teacher, f"log_prob, {self.listed(server)}")
        scored(run)
        words = [word for word in run.words if not word.startswith("score.rankers")]
        other = run.again(*words, f"score.rankers=[log_prob, {self.listed(server, weight=3.0)}]", "score.combine=votes")
        scored(other)
        assert told(other)["weights"] == [1.0, 3.0]
        assert len(server.asked) == 12
