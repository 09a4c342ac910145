"""The score stage: whose tokens, which reward, what is stored and what is counted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd.errors import UserError
from grkd.language.models import LanguageModels
from grkd.language.score import read_groups, score
from grkd.run import results as _results
from grkd.teacher import local
from grkd.teacher.annotator import Comparison, choice_scores
from grkd.teacher.signal import HiddenCache, TeacherHead
from grkd.training import LanguageRows
from tests.language._score_runs import (
    CONTEXT,
    END,
    WORDS,
    agree,
    made,
    own_log_probs,
    records,
    save_llama,
    table,
    tokenizer,
)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("teacher"), tokenizer())


@pytest.mark.parametrize("signal", ["cache", "live"])
def test_log_probabilities_of_the_tokens_that_the_student_trains_on(tmp_path: Path, teacher: Path, signal: str) -> None:
    run = made(tmp_path, teacher, f"score.signal={signal}")
    found = table(run)
    rows = LanguageRows(pad_token_id=0, vocabulary=len(WORDS))
    for group in read_groups(run.run, "train") + read_groups(run.run, "heldout"):
        for item in group.items:
            batch = rows.collate([item])
            trained_on = batch["response_ids"][batch["response_mask"]].tolist()  # the labels of the Trainer's rows
            assert (trained_on[-1] == END) == (not item.id.endswith("#0")), "a whole response ends with its stop token"
            assert found[item.id]["tokens"] == len(trained_on)
            expected = own_log_probs(teacher, item.prompt_ids, trained_on, len(WORDS)).mean()
            assert found[item.id]["teacher_mean_log_prob_nats"] == pytest.approx(expected.item(), rel=1e-4)
    assert {name: row["group"] for name, row in found.items()} == {name: name.split("#")[0] for name in found}


def test_logits_of_a_whole_batch_are_made_once(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first look at the teacher; then log-probabilities come from hidden states, a chunk of logits at a time."""
    calls: list[int] = []
    real = local.response_logits
    monkeypatch.setattr(local, "response_logits", lambda *parts: calls.append(1) or real(*parts))
    made(tmp_path, teacher)
    assert len(calls) == 1


def test_neither_batches_nor_chunks_matter(tmp_path: Path, teacher: Path) -> None:
    tables = []
    for number, words in enumerate((["score.batch_size=1", "responses.shard_size=1"], ["responses.shard_size=100"])):
        (tmp_path / str(number)).mkdir()
        run = made(tmp_path / str(number), teacher, *words, "score.reward=calibrated")
        tables.append(table(run))
    agree(*tables)


def test_calibrated_reward_and_the_question(tmp_path: Path, teacher: Path) -> None:
    words = ["score.reward=calibrated", "score.calibration=0.7", "data.system=w30 w31"]
    run = made(tmp_path, teacher, *words)
    found = table(run)
    for group in records(7, 3)[3:12:3]:
        answers = [record for record in records(7, 3) if record["group"] == group["group"]]
        asked = Comparison(
            id="any",
            conversation=[{"role": "system", "content": "w30 w31"}, *json.loads(group["messages"])],
            responses=tuple(record["response"] for record in answers),
        )
        model = AutoModelForCausalLM.from_pretrained(teacher).eval()
        (verdict,) = choice_scores(model, tokenizer(), [asked], batch_size=2, context=CONTEXT)
        assert verdict.log_wins is not None
        for record, win in zip(answers, verdict.log_wins, strict=True):
            row = found[record["id"]]
            expected = 0.7 * row["teacher_mean_log_prob_nats"] + 0.3 * win
            assert row["teacher_reward"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "ratio"), [("log_prob", 1.0), ("choice", 0.0), ("data", None)], ids=["log_prob", "choice", "data"]
)
def test_other_rewards(tmp_path: Path, teacher: Path, kind: str, ratio: float | None) -> None:
    """log_prob and choice are the ends of calibrated."""
    responses = records(7, 3, scores=True)
    run = made(tmp_path, teacher, f"score.reward={kind}", responses=responses)
    if ratio is None:
        expected = {record["id"]: record["data_score"] for record in responses}
    else:
        other = run.again("score.reward=calibrated", f"score.calibration={ratio}")
        found = {name: row["teacher_reward"] for name, row in table(run).items()}
        score(other.context)
        expected = {name: row["teacher_reward"] for name, row in table(other).items()}
        assert found == pytest.approx(expected, rel=1e-5)
        return
    for name, row in table(run).items():
        assert row["teacher_reward"] == expected[name]
        assert row["ranker_scores"] == [expected[name]]


def test_groups_are_read_with_their_rewards_in_the_order_of_the_data(tmp_path: Path, teacher: Path) -> None:
    responses = records(7, 3, scores=True)
    run = made(tmp_path, teacher, "score.reward=data", responses=responses)
    groups = read_groups(run.run, "train")
    assert [group.id for group in groups] == [f"p{number}" for number in range(5)]
    assert [group.id for group in read_groups(run.run, "heldout")] == ["p5", "p6"]
    flat = [(item, value) for group in groups for item, value in zip(group.items, group.teacher_scores, strict=True)]
    for (item, value), record in zip(flat, responses, strict=False):
        assert (item.id, item.response_ids, value) == (record["id"], record["response_ids"], record["data_score"])
    assert [item.index for item, _ in flat] == list(range(15))
    assert groups[0].sources == ("student", "data", "student")
    assert groups[0].reference_log_probs is None


def test_a_single_response_is_scored_and_not_compared(tmp_path: Path, teacher: Path) -> None:
    run = made(tmp_path, teacher, "score.reward=calibrated", responses=records(4, 1))
    for row in table(run).values():
        assert row["teacher_reward"] == row["teacher_mean_log_prob_nats"]
    counts = json.loads((run.run.path / "score" / "counts.json").read_text())
    assert (counts["groups_all_scores_equal"], counts["groups_not_compared"]) == (0, 0)


RANKS = (
    "{name: grkd, ranking: [{part: pairs, level: response, tau: 0.1}], "
    "anchor: [{part: soft_target, level: response, temperature: 0.1}]}"
)


class TestHiddenStates:
    @pytest.mark.parametrize(
        ("methods", "splits"), [("kd", {"train", "heldout"}), ("ce", {"heldout"}), (RANKS, {"heldout"})]
    )
    def test_are_stored_where_tokens_are_compared(
        self, tmp_path: Path, teacher: Path, methods: str, splits: set[str]
    ) -> None:
        run = made(tmp_path, teacher, f"methods=[{methods}]")
        cache = HiddenCache(run.run.path / "score" / "hidden")
        head = TeacherHead.load(run.run.path / "score" / "head.safetensors")
        assert set(cache) == {record["id"] for record in records(7, 3) if record["split"] in splits}
        chunks = range(4) if "train" in splits else (2, 3)  # of two groups each: the number names the file, on any rank
        files = sorted(path.name for path in (run.run.path / "score" / "hidden").iterdir())
        assert files == [f"hidden-{number:06d}.safetensors" for number in chunks]
        for record in records(7, 3)[-4:]:
            chosen = head(cache[record["id"]]).double().log_softmax(-1)
            ours = chosen.gather(-1, torch.tensor(record["response_ids"]).unsqueeze(-1)).squeeze(-1)
            expected = own_log_probs(teacher, record["prompt_ids"], record["response_ids"], len(WORDS))
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)

    def test_are_not_stored_for_a_live_teacher(self, tmp_path: Path, teacher: Path) -> None:
        run = made(tmp_path, teacher, "score.signal=live")
        assert {path.name.split("-")[0] for path in (run.run.path / "score").iterdir()} == {
            "scores",
            "counts.json",
            "rankers.json",
            "manifest.json",
        }

    def test_decide_whether_the_stage_is_made_again(self, tmp_path: Path, teacher: Path) -> None:
        run = made(tmp_path, teacher, "methods=[ce]")
        stamp = (run.run.path / "score" / "manifest.json").stat().st_mtime_ns
        for methods, kept in ((RANKS, True), ("kd", False)):
            other = run.again(f"methods=[{methods}]")
            score(other.context)
            assert ((run.run.path / "score" / "manifest.json").stat().st_mtime_ns == stamp) == kept


def test_a_model_whose_logits_are_more_than_its_head(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden states and head give other logits than the model: they are not used, and not stored."""
    real = LanguageModels.teacher

    def halved(self: Any) -> Any:
        model = real(self)
        model.lm_head.register_forward_hook(lambda module, inputs, output: output * 0.5)
        return model

    monkeypatch.setattr(LanguageModels, "teacher", halved)
    with pytest.raises(UserError, match="set score"):
        made(tmp_path, teacher)
    run = made(tmp_path, teacher, "score.signal=live")
    record = records(7, 3)[4]
    model = AutoModelForCausalLM.from_pretrained(teacher).eval()
    with torch.no_grad():
        logits = 0.5 * model(torch.tensor([record["prompt_ids"] + record["response_ids"]])).logits[0, :, : len(WORDS)]
    tokens = logits[len(record["prompt_ids"]) - 1 : -1].log_softmax(-1)
    expected = tokens.gather(-1, torch.tensor(record["response_ids"]).unsqueeze(-1)).mean()
    assert table(run)[record["id"]]["teacher_mean_log_prob_nats"] == pytest.approx(expected.item(), rel=1e-4)


def test_equal_scores_are_counted_and_said(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    responses = records(7, 3, scores=True)
    for record in responses:
        if record["group"] in ("p1", "p4"):
            record["data_score"] = 1.5
    run = made(tmp_path, teacher, "score.reward=data", responses=responses)
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 7 groups have no two responses with different scores, so they make no pair" in said
    _results.collect(run.recipe, run.run.path, {})
    counts = json.loads((run.run.path / "results.json").read_text())["counts"]
    assert (counts["groups_scored"], counts["groups_all_scores_equal"]) == (7, 2)


def test_long_groups_are_cut_or_not_compared_counted_and_said(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    responses = records(6, 2)
    for record in responses:
        if record["group"] == "p1":  # two of them do not fit into the question
            record["response_ids"] = [8 + number % 30 for number in range(100)]
            record["response"] = tokenizer().decode(record["response_ids"])
        if record["group"] == "p2":  # a prompt that fits by itself, but not into the question
            record["messages"] = json.dumps([{"role": "user", "content": "w1 " * (CONTEXT - 60)}])
    run = made(tmp_path, teacher, "score.reward=calibrated", responses=responses)
    found, said = table(run), " ".join(capsys.readouterr().err.split())
    assert found["p2#1"]["teacher_reward"] == found["p2#1"]["teacher_mean_log_prob_nats"]
    counts = json.loads((run.run.path / "score" / "counts.json").read_text())
    assert (counts["groups_cut_for_comparison"], counts["groups_not_compared"]) == (1, 1)
    assert "1 of 6 groups were truncated to fit the teacher's context" in said
    assert "1 of 6 groups are too long for the teacher to compare" in said
