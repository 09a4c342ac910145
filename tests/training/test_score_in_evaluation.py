"""`eval_metrics: score` of methods that compare no responses: rankers are asked in evaluation alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd.models.cut import truncated
from grkd.rankers import Tally
from grkd.training import GRKDTrainer
from tests.conftest import word_tokenizer
from tests.training.test_grkd_trainer import RECORDS, config, weights
from tests.training.test_grkd_trainer_groups import GROUPED, by_length, made

ANSWERED = [{**record, "grade": len(record["completion"])} for record in RECORDS]


@pytest.mark.parametrize(
    ("method", "options"), [("kd", {}), ("opd", {"on_policy_fraction": 1.0}), ("minillm", {}), ("seqkd", {})]
)
def test_a_method_that_compares_no_responses_is_scored_in_evaluation(
    method: str, options: dict[str, Any], tmp_path: Path, tiny_teacher: Path
) -> None:
    """By the very responses by which grpo is scored; rankers change nothing in training."""
    teacher = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    given: dict[str, Any] = {"eval_dataset": ANSWERED, "eval_metrics": ["score"]}
    grpo = made(tmp_path / "a", truncated(teacher, [0, 2]), None, "grpo", **given)
    expected = grpo.evaluate()["eval_score/by_length"]
    own = {"method": method, "method_options": options, **GROUPED}
    found = {}
    for ranked in (True, False):
        args = config(tmp_path / f"b{ranked}", **own, eval_metrics=["score"] if ranked else None)
        trainer = GRKDTrainer(
            truncated(teacher, [0, 2]), teacher, args, train_dataset=RECORDS, eval_dataset=ANSWERED,
            processing_class=word_tokenizer(), rankers=[by_length] if ranked else None,
        )  # fmt: skip
        if ranked:
            assert trainer.evaluate()["eval_score/by_length"] == pytest.approx(expected)
        trainer.train()
        found[ranked] = weights(trainer.model)
    torch.testing.assert_close(found[True], found[False], rtol=0, atol=0)


def test_an_evaluation_and_the_next_log_know_nothing_of_each_other(tmp_path: Path, tiny_teacher: Path) -> None:
    """Between two logs: what training has counted stays its own, and an evaluation's seconds are not training's."""
    teacher = AutoModelForCausalLM.from_pretrained(tiny_teacher)
    given: dict[str, Any] = {"eval_dataset": ANSWERED, "eval_metrics": ["score"]}
    trainer = made(tmp_path, truncated(teacher, [0, 2]), None, "grpo", **given)
    assert not trainer.rows.seconds  # of the constructor's evaluation set
    before = trainer.evaluate()["eval_groups/no_order"]
    fresh = trainer.rows.fresh
    fresh.unordered, trainer.rows.seconds["sample"] = Tally(100.0, 100), 5.0
    assert trainer.evaluate()["eval_groups/no_order"] == before < 1
    assert (fresh.unordered, dict(trainer.rows.seconds)) == (Tally(100.0, 100), {"sample": 5.0})
