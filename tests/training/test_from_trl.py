"""Configs of TRL as GRKDConfig: nothing is left out, and what is mapped means the same."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from grkd import objectives
from grkd.errors import UserError
from grkd.training import from_trl
from grkd.training.grkd_config import GRKDConfig
from grkd.training.trl_configs import CONFIGS, markdown

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore")  # trl warns of its experimental parts, and of old names
PAGE = Path(__file__).parents[2] / "docs" / "guide" / "from-trl.md"
OURS = {field.name for field in fields(GRKDConfig)}


def config(name: str, **given: Any) -> Any:
    if name == "GKDConfig":
        from trl.experimental.gkd import GKDConfig as made
    else:
        made = getattr(trl, name)
    return made(**{"use_cpu": True, "report_to": [], "bf16": False, **given})


@pytest.mark.parametrize("name", CONFIGS)
def test_every_argument_of_trl_has_its_place(name: str, tmp_path: Path) -> None:
    made = config(name, output_dir=str(tmp_path))
    theirs = {field.name for field in fields(made)} - {field.name for field in fields(TrainingArguments)}
    method, arguments = CONFIGS[name]
    assert set(arguments) == theirs
    known = objectives.method(method).options({})
    for argument, place in arguments.items():
        if place.kind == "same":
            assert place.to in OURS, argument
        if place.kind == "option":
            assert place.to in known, argument
        assert place.kind in ("same", "option", "made") or place.why, argument
    found = from_trl(made)
    objectives.load(found.method, **(found.method_options or {}))
    assert found.learning_rate == made.learning_rate
    assert found.gradient_checkpointing == made.gradient_checkpointing


def test_grpo_in_prompts_and_optimiser_steps(tmp_path: Path) -> None:
    made = from_trl(
        config(
            "GRPOConfig", output_dir=str(tmp_path), per_device_train_batch_size=16, gradient_accumulation_steps=2,
            num_generations=8, steps_per_generation=6, max_completion_length=64, epsilon=0.1, epsilon_high=0.3,
            scale_rewards="none", loss_type="grpo", reward_weights=[1.0, 2.0], shuffle_dataset=False, seed=7,
        )
    )  # fmt: skip
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (2, 2)
    assert (made.steps_per_generation, made.num_generations, made.max_new_tokens) == (3, 8, 64)
    assert made.method_options == {"clip_low": 0.1, "clip_high": 0.3, "scale": "none", "normalize": "sequence"}
    assert (made.reward_weights, made.train_sampling_strategy, made.seed) == ([1.0, 2.0], "sequential", 7)
    small = config("GRPOConfig", output_dir=str(tmp_path), per_device_train_batch_size=4, gradient_accumulation_steps=4)
    made = from_trl(small, max_steps=3)
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps, made.max_steps) == (1, 2, 3)
    assert made.method_options == {"clip_low": 0.2, "clip_high": 0.2, "scale": "group", "normalize": "token"}


def test_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = from_trl(config("DPOConfig", output_dir=str(tmp_path), beta=0.3, padding_free=True, max_length=77))
    assert (made.method, made.method_options, made.max_length) == ("dpo", {"beta": 0.3, "label_smoothing": 0.0}, 77)
    assert "no effect here: padding_free" in capsys.readouterr().err
    made = from_trl(config("DistillationConfig", output_dir=str(tmp_path), teacher_model_name_or_path="t"))
    assert (made.method, made.method_options, made.teacher_model_name_or_path) == ("opd", None, "t")
    made = from_trl(config("DistillationConfig", output_dir=str(tmp_path), beta=0.25))
    assert (made.method, made.method_options) == ("gkd", {"beta": 0.25, "on_policy_fraction": 1.0})
    made = from_trl(config("GKDConfig", output_dir=str(tmp_path), lmbda=0.1, max_new_tokens=9))
    assert made.method_options == {"on_policy_fraction": 0.1, "beta": 0.5}  # TRL's temperature is the sampling's
    assert made.max_new_tokens == 9
    made = from_trl(config("SFTConfig", output_dir=str(tmp_path), max_length=99))
    assert (made.method, made.method_options, made.max_length) == ("sft", None, 99)
    assert made.train_sampling_strategy == "random"  # TRL's shuffle_dataset is another shuffle, before the batches'


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("GRPOConfig", {"beta": 0.04}, r"GRPOConfig\(beta=0.04\): .* teacher_kl"),
        ("GRPOConfig", {"temperature": 0.7}, "sampled at temperature 1"),
        ("GRPOConfig", {"loss_type": "dr_grpo"}, "use grpo, dapo or bnpo"),
        ("GRPOConfig", {"per_device_train_batch_size": 12}, "not a whole number of groups"),
        ("DPOConfig", {"loss_type": ["ipo"]}, "only the sigmoid loss"),
        ("GKDConfig", {"seq_kd": True}, "use method seqkd"),
        ("SFTConfig", {"loss_type": "dft"}, "only the mean of -log p over tokens"),
        ("SFTConfig", {"completion_only_loss": False}, "only responses are trained on"),
        ("GKDConfig", {"temperature": 0.5}, "here responses are sampled at 1"),
    ],
)
def test_what_changes_the_training_and_is_not_here_is_refused(
    tmp_path: Path, name: str, given: dict[str, Any], message: str
) -> None:
    made = config(
        name, output_dir=str(tmp_path), **{k: v for k, v in given.items() if k != "per_device_train_batch_size"}
    )
    for key, value in given.items():
        setattr(made, key, value)  # trl itself refuses some
    with pytest.raises(UserError, match=message):
        from_trl(made)


def test_another_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="from_trl knows GRPOConfig, DPOConfig"):
        from_trl(TrainingArguments(output_dir=str(tmp_path), use_cpu=True))


def test_the_page_has_the_tables() -> None:
    """`python -m grkd.training.trl_configs` prints them."""
    assert PAGE.read_text(encoding="utf-8").endswith(markdown())
