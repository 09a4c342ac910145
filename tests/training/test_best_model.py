"""metric_for_best_model: the direction of our metrics, and names that no evaluation gives."""

from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from grkd.errors import UserError
from grkd.training import GRKDConfig, GRKDTrainer
from tests.conftest import word_tokenizer
from tests.training.test_grkd_trainer import RECORDS


@pytest.fixture
def student(tiny_teacher: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_teacher)


def made(folder: Path, student: Any, eval_dataset: Any = RECORDS, **options: Any) -> GRKDTrainer:
    given = {name: options.pop(name) for name in ("compute_metrics", "callbacks") if name in options}
    settings: dict[str, Any] = {"method": "kd", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    args = GRKDConfig(str(folder / "out"), **settings | options)
    teacher = LlamaForCausalLM(student.config)
    given |= {"train_dataset": RECORDS, "eval_dataset": eval_dataset, "processing_class": word_tokenizer()}
    return GRKDTrainer(student, teacher, args, **given)


@pytest.mark.parametrize(
    ("metric", "own", "greater"),
    [
        ("forward_kl_nats", None, False),
        ("eval_reverse_kl_nats", None, False),
        ("eval_long_forward_kl_nats", None, False),  # of a data set of that name
        ("kendall_tau", None, True),
        ("score/verifier", None, True),
        ("loss", None, False),
        ("forward_kl_nats", True, True),  # what the user says is kept
        ("own_measure", None, True),  # as transformers
    ],
)
def test_the_best_model_is_the_one_nearest_to_the_teacher(
    tmp_path: Path, metric: str, own: bool | None, greater: bool
) -> None:
    best: dict[str, Any] = {"save_strategy": "steps", "eval_strategy": "steps", "load_best_model_at_end": True}
    args = GRKDConfig(str(tmp_path), metric_for_best_model=metric, greater_is_better=own, use_cpu=True, **best)
    assert args.greater_is_better is greater


def test_a_training_ends_with_the_best_of_its_students(tmp_path: Path, student: Any) -> None:
    """Steps that go too far: the last student is not the best one."""
    best: dict[str, Any] = {"save_strategy": "steps", "eval_strategy": "steps", "load_best_model_at_end": True}
    best |= {
        "save_steps": 1.0,
        "eval_steps": 1.0,
        "max_steps": 4,
        "learning_rate": 0.3,
        "lr_scheduler_type": "constant",
    }
    trainer = made(tmp_path, student, metric_for_best_model="forward_kl_nats", eval_metrics=["forward_kl_nats"], **best)
    trainer.train()
    found = [line["eval_forward_kl_nats"] for line in trainer.state.log_history if "eval_forward_kl_nats" in line]
    assert max(found) > min(found)
    assert trainer.state.best_metric == pytest.approx(min(found))
    assert trainer.evaluate()["eval_forward_kl_nats"] == pytest.approx(min(found), rel=1e-5)


@pytest.mark.parametrize(
    ("metric", "sets", "message"),
    [
        ("kendall_tau", RECORDS, r"metric_for_best_model 'kendall_tau': add it to eval_metrics"),
        ("kendal_tau", RECORDS, r"metric_for_best_model 'kendal_tau' is measured by no evaluation; .*'loss'"),
        ("loss", {"a": RECORDS, "b": RECORDS}, r"'loss' is measured by no evaluation; .*'a_loss', 'b_loss'"),
    ],
)
def test_a_metric_that_no_evaluation_gives_is_refused(
    tmp_path: Path, student: Any, metric: str, sets: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        made(tmp_path, student, sets, metric_for_best_model=metric)


def test_metrics_that_are_measured_are_taken(tmp_path: Path, student: Any) -> None:
    made(tmp_path, student, metric_for_best_model="eval_loss")
    made(tmp_path, student, metric_for_best_model="kendall_tau", eval_metrics=["kendall_tau"])
    made(tmp_path, student, {"a": RECORDS}, metric_for_best_model="a_loss")
    made(tmp_path, student, metric_for_best_model="mine", compute_metrics=lambda _: {"mine": 1.0})
