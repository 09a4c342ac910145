"""What GRKDTrainer leaves of held-out prompts for its report: answers and groups, before training and after it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd import cli
from grkd.data.tables import read_table
from grkd.errors import UserError
from grkd.models.cut import truncated
from grkd.reports import read_run, write_page
from grkd.reports.groups import held_out_groups
from grkd.training import GRKDTrainer
from tests.conftest import word_tokenizer
from tests.training.test_grkd_trainer import RECORDS, config, weights
from tests.training.test_grkd_trainer_groups import GROUPED, by_length, made

TOKENS = {"method": "kd", "method_options": {}, "max_new_tokens": 5, "report_prompts": 3}


@pytest.fixture
def teacher(tiny_teacher: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_teacher)


def by_tokens(folder: Path, teacher: Any, evaluation: Any = RECORDS[4:], **options: Any) -> GRKDTrainer:
    return GRKDTrainer(
        truncated(teacher, [0, 2]), teacher, config(folder, **{**TOKENS, **options}), train_dataset=RECORDS[:4],
        eval_dataset=evaluation, processing_class=word_tokenizer(),
    )  # fmt: skip


def mean_log_prob(model: Any, prompt: list[int], response: list[int]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0].double()
    predicted = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return float(predicted[range(len(response)), response].mean())


def greedy(model: Any, prompt: list[int]) -> str:
    made = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=5, eos_token_id=3, pad_token_id=0)
    ids = made[0, len(prompt) :].tolist()
    return word_tokenizer().decode(ids[: ids.index(3)] if 3 in ids else ids)


def test_answers_and_groups_before_and_after(tmp_path: Path, teacher: Any) -> None:
    """By the models' own forward in float64, and by transformers' generate."""
    trainer = by_tokens(tmp_path, teacher)
    before = truncated(teacher, [0, 2]).eval()
    trainer.train()
    students = {"before": before, "kd-seed42": trainer.model.eval()}
    kept = json.loads((tmp_path / "evaluate" / "shown.json").read_text())["prompts"]
    assert [one["prompt"] for one in kept] == [record["prompt"] for record in RECORDS[4:7]]
    groups = held_out_groups(tmp_path)
    assert [list(group.students) for group in groups] == [["before", "kd-seed42"]] * 3
    for one, group in zip(kept, groups, strict=True):
        assert len(group.responses) == 4
        for place, response in enumerate(one["responses"]):
            expected = mean_log_prob(teacher, one["ids"], response)
            assert group.scores[place] == group.by_ranker["log_prob"][place] == pytest.approx(expected, abs=1e-5)
            for name, model in students.items():
                own = mean_log_prob(model, one["ids"], response)
                assert group.students[name][place] == pytest.approx(own, abs=1e-5)
    run = read_run(tmp_path)
    for one, sample in zip(kept, run.samples, strict=True):
        answers = {"teacher": teacher, "before": before, "kd": students["kd-seed42"]}
        assert sample.answers == {name: greedy(model, one["ids"]) for name, model in answers.items()}
        assert sample.messages == ({"role": "user", "content": one["prompt"]},)
    write_page([run], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "pairs swapped" in page
    assert "Not available" not in page
    assert cli.main(["groups", str(tmp_path), "--limit", "1"]) == 0


def test_it_changes_no_training_and_can_be_left_out(tmp_path: Path, teacher: Any) -> None:
    found = {}
    for prompts in (0, 3):
        trainer = by_tokens(tmp_path / "a", teacher, report_prompts=prompts)
        trainer.train()
        found[prompts] = weights(trainer.model)
        assert (tmp_path / "a" / "evaluate").is_dir() == bool(prompts)
    torch.testing.assert_close(found[0], found[3], rtol=0, atol=0)
    by_tokens(tmp_path / "a", teacher, evaluation=None).train()
    assert [path.name for path in (tmp_path / "a" / "evaluate").rglob("*.*")] == [], "nothing of an earlier training"
    with pytest.raises(UserError, match="report_prompts must be a number from 0"):
        config(tmp_path, report_prompts=-1)


def test_a_resumed_training_shows_the_same(tmp_path: Path, teacher: Any) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2.0}
    by_tokens(tmp_path / "a", teacher, **saving).train()
    shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("checkpoint-3", "kd-seed42"))
    (tmp_path / "b" / "train" / "kd-seed42").mkdir()
    by_tokens(tmp_path / "b", teacher, **saving).train(resume_from_checkpoint=True)
    names = ("samples.json", "before/groups.parquet", "kd-seed42/groups.parquet")
    whole, resumed = ([read(tmp_path / way / "evaluate" / name) for name in names] for way in "ab")
    assert whole == resumed


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.suffix == ".json" else read_table(path)


def test_groups_that_rankers_order_and_groups_of_the_data(tmp_path: Path, teacher: Any) -> None:
    records = [{**record, "grade": 1} for record in RECORDS]
    given = {"eval_dataset": records[4:], "report_prompts": 3}
    made(tmp_path / "a", truncated(teacher, [0, 2]), None, "grpo", **given).train()
    for group in held_out_groups(tmp_path / "a"):
        assert len(group.responses) == GROUPED["num_generations"]
        lengths = by_length([], list(group.responses), [1] * len(group.responses))
        assert list(group.scores) == lengths == list(group.by_ranker["by_length"])
    ordered = {"prompt": "w1", "responses": ["w2 w3", "w4", "w5"], "teacher_scores": [-0.5, -2, -1]}
    by_tokens(tmp_path / "b", teacher, evaluation={"own": [ordered], "other": RECORDS}).train()
    (group,) = held_out_groups(tmp_path / "b")
    assert group.scores == (-0.5, -2.0, -1.0)
    assert group.responses == ("w2 w3", "w4", "w5")
    assert group.by_ranker == {}
