"""`eval_metrics: score` of methods that compare no responses: rankers are asked in evaluation alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from grkd.models.cut import truncated
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
