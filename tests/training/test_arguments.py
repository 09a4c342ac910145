"""Arguments of GRKDConfig and GRKDTrainer that cannot be meant: one line that names them, before anything is loaded."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from grkd import GRKDConfig, GRKDTrainer, objectives
from grkd.errors import UserError
from grkd.training.argument_checks import check_arguments, check_config
from grkd.training.grkd_config import objective_of

NAN = float("nan")
WRONG: dict[str, list[Any]] = {
    "max_length": ["x", [], 1, True],
    "system": [3, [], True],
    "train_on_turns": [None, "first"],
    "train_split": [3],
    "max_new_tokens": ["x", None, 0, 2.5, 2**70],
    "num_generations": [0, "x"],
    "stored_share": [-0.1, 1.5, NAN, "x", True],
    "steps_per_generation": [0, None, "x"],
    "sampling_batch_size": [0, "x"],
    "reward_weights": [3, ["x"]],
    "keep_groups": [1, "x"],
    "method": [None, 3, ["kd"]],
    "method_options": [3, NAN, [1]],
    "teacher_model_name_or_path": [3],
    "teacher_placement": [None, "moon"],
    "teacher_dtype": ["int8"],
    "other_vocabulary": ["all"],
    "token_order": ["most"],
    "fused_head": [1, "x"],
    "tokens_per_batch": [0, "x"],
    "eval_metrics": [3, [3], True],
    "eval_top_k": [1, None],
    "learning_rate": [NAN, -1.0, float("inf")],
    "per_device_train_batch_size": [0],
    "gradient_accumulation_steps": [0],
    "num_train_epochs": [NAN],
    "seed": [-1],
    "dataloader_num_workers": [-1],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_field_of_another_type_or_size_is_named(name: str) -> None:
    config = GRKDConfig(report_to="none", use_cpu=True)
    for value in WRONG[name]:
        setattr(config, name, value)  # under the tests' type checks the constructor is not reached
        with pytest.raises(UserError, match=f"^{name} must be .*, got ") as caught:
            check_config(config)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


def test_a_choice_names_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GRKDConfig(report_to="none", use_cpu=True)
    monkeypatch.setattr(config, "token_order", "most")
    with pytest.raises(UserError, match=r"^token_order must be log_probs, votes or unanimous, got 'most'$"):
        check_config(config)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr_scheduler_type": "x"}, "GRKDConfig: x is not a valid SchedulerType"),
        ({"optim": "x"}, "GRKDConfig: x is not a valid OptimizerNames"),
        ({"logging_steps": 0.0}, "GRKDConfig: .*logging strategy"),
        ({"learning_rate": NAN}, "learning_rate must be a number from 0 to 1e\\+38, got nan"),
        ({"method_options": "[1]"}, "method_options must be a JSON object"),
        ({"method_options": "{"}, r"method_options is text, but not JSON \(.*\); give a dict"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor would do nothing: the loss is the method's"),
        ({"bf16_full_eval": True}, "bf16_full_eval would do nothing: an evaluation computes as the training does"),
        ({"fp16": True}, "fp16 would do nothing on a CPU; leave it out, or set bf16"),
    ],
)
def test_constructors_refuse(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        objective_of(GRKDConfig(**{"report_to": "none", "use_cpu": True, **given}))
    assert "\n" not in str(caught.value)


def test_what_can_be_meant_is_taken() -> None:
    config = GRKDConfig(
        report_to="none", use_cpu=True, max_length=None, method_options='{"temperature": 2}', method="kd",
        reward_weights=[1.0, 2.5], stored_share=1.0, max_grad_norm=0.0, eval_metrics=["kendall_tau"],
    )  # fmt: skip
    assert config.method_options == {"temperature": 2}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        *(
            ({"model": wrong}, "model must be a model of transformers or its name")
            for wrong in (None, 3, "", torch.nn.Linear(1, 1))
        ),
        *(
            ({"teacher_model": wrong}, "teacher_model must be a model of transformers, its name")
            for wrong in (3, torch.nn.Linear(1, 1))
        ),
        ({"processing_class": "x"}, "processing_class must be a tokenizer of transformers, got 'x'"),
        ({"teacher_processing_class": 3}, "teacher_processing_class must be a tokenizer"),
        ({"teacher_cache": 3}, "teacher_cache must be a folder of `grkd cache build`, got 3"),
        ({"objective": "rkd"}, "objective must be a method"),
        ({"objective": objectives.load("rkd")}, "the method reads a classifier's features"),
        ({"eval_datset": []}, "no argument 'eval_datset'; did you mean 'eval_dataset'?"),
        ({"compute_loss_func": len}, "compute_loss_func would do nothing: the loss is the method's"),
        ({"data_collator": len}, "data_collator would do nothing: batches are made from records"),
        ({"formatting_func": len}, "formatting_func would do nothing"),
        ({"compute_metrics": 3}, "compute_metrics must be a function, got 3"),
        ({"callbacks": [3]}, "callbacks must be a list of transformers.TrainerCallback, got [3]"),
        ({"optimizers": 3}, "optimizers must be a pair of optimizer and scheduler, got 3"),
        ({"peft_config": 3}, "peft_config must be a peft.PeftConfig, got 3"),
        (
            {"peft_config": SimpleNamespace(peft_type="PREFIX_TUNING", is_prompt_learning=True)},
            "peft_config: PREFIX_TUNING puts learnt tokens before the prompt, and batches are made without them",
        ),
    ],
)
def test_an_argument_that_cannot_be_meant_is_named(changed: dict[str, Any], words: str) -> None:
    named = ("model", "teacher_model", "teacher_cache", "peft_config", "objective")
    given = {"model": "org/student", "teacher_model": None, "teacher_cache": None, "peft_config": None}
    given |= {"objective": objectives.load("kd"), **{name: changed[name] for name in changed if name in named}}
    tokenizers = {name: changed[name] for name in changed if name.endswith("processing_class")}
    others = {name: changed[name] for name in changed if name not in (*named, *tokenizers)}
    with pytest.raises(UserError) as caught:
        check_arguments(**given, tokenizers=tokenizers, others=others)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_trainer_looks_at_its_arguments_first() -> None:
    with pytest.raises(UserError, match="compute_loss_func would do nothing"):
        GRKDTrainer("org/absent", args=GRKDConfig(report_to="none", use_cpu=True), compute_loss_func=len)
