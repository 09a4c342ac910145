"""A GRKDConfig from a config of TRL: arguments go where they belong, are refused, or are named. TRL is not imported."""

from collections.abc import Mapping
from dataclasses import fields
from importlib.resources import files
from typing import Any, NamedTuple

import yaml
from rich.markup import escape
from transformers import TrainingArguments

from grkd.console import console
from grkd.errors import UserError
from grkd.training.grkd_config import GRKDConfig
from grkd.training.run_files import defaults_of

# transformers passes their values on to the new names by itself.
_OLD_NAMES = (
    ("gradient_checkpointing", "gradient_checkpointing_kwargs")
    if "activation_checkpointing" in {field.name for field in fields(TrainingArguments)}
    else ()
)
_FLOATS = {field.name for field in fields(TrainingArguments) if field.type in (float, "float")}
_OF_TRANSFORMERS = [field.name for field in fields(TrainingArguments) if field.init]


class Argument(NamedTuple):
    """An argument of TRL's: a kind of trl_arguments.yaml, the name here, and what to do or why it is not here."""

    kind: str
    to: str = ""
    why: str = ""
    fine: tuple[object, ...] = ()


def _arguments(table: Mapping[str, Any], name: str) -> dict[str, Argument]:
    """The arguments of an entry of trl_arguments.yaml."""
    found: dict[str, Argument] = {}
    for other in table[name].get("includes", ()):
        found |= _arguments(table, other)
    for kind in ("same", "option", "made"):
        for argument, place in table[name].get(kind, {}).items():
            found[argument] = Argument(kind, *(place if isinstance(place, list) else [place]))
    for kind in ("refused", "without"):
        for why, names in table[name].get(kind, {}).items():
            fine = table[name].get("fine", {})
            found |= {argument: Argument(kind, "", why, tuple(fine.get(argument, ()))) for argument in names.split()}
    return found


def _configs() -> dict[str, tuple[str, dict[str, Argument]]]:
    """Of each config of TRL the method here, and its arguments."""
    table = yaml.safe_load(files("grkd.training").joinpath("trl_arguments.yaml").read_text(encoding="utf-8"))
    return {name: (entry["method"], _arguments(table, name)) for name, entry in table.items() if "method" in entry}


CONFIGS = _configs()


def from_trl(config: Any, **changes: Any) -> GRKDConfig:
    """The same training as a GRKDConfig: of trl's GRPOConfig, DPOConfig, DistillationConfig, GKDConfig or SFTConfig
    (1.16).

    TrainingArguments are copied; what TRL adds is mapped as in docs/guide/from-trl.md. Arguments that only say how TRL
    works are named in one line.

    Parameters
    ----------
    config : trl config
        One of the five above.
    **changes : Any
        Fields of GRKDConfig that are set in place of the config's.

    Returns
    -------
    GRKDConfig
        For `GRKDTrainer`.

    Raises
    ------
    UserError
        For another config, and for an argument that changes what is learnt and is not here.

    Examples
    --------
    >>> import warnings
    >>> from grkd import from_trl
    >>> from trl import DPOConfig
    >>> with warnings.catch_warnings(action="ignore"):  # of transformers about trl
    ...     config = from_trl(DPOConfig("out", beta=0.2, report_to="none", bf16=False, use_cpu=True))
    >>> config.method, config.method_options["beta"]
    ('dpo', 0.2)
    """
    kind = next((each.__name__ for each in type(config).__mro__ if each.__name__ in CONFIGS), None)
    if kind is None:
        raise UserError(f"from_trl knows {', '.join(CONFIGS)} of trl, got {type(config).__name__}")
    method, arguments = CONFIGS[kind]
    given = _of_transformers(config)
    given["max_length"] = None  # where TRL sets no limit
    options: dict[str, Any] = {}
    unused = []
    defaults = defaults_of(config)
    for name, argument in arguments.items():
        if not hasattr(config, name):  # another version of trl
            continue
        value = getattr(config, name)
        if argument.kind == "same":
            given[argument.to] = value
        elif argument.kind == "option":
            options |= {argument.to: value} if value is not None else {}
        # Lists of one value are that value.
        elif value not in (defaults.get(name), *argument.fine, *([one] for one in argument.fine)):
            if argument.kind == "refused":
                raise UserError(f"from_trl: {kind}({name}={value!r}): {argument.why}"[:400])
            unused += [name] if argument.kind == "without" else []
    if kind == "GRPOConfig":
        _grpo(config, given, options)
    if kind == "DistillationConfig" and config.beta != 1:
        method, options = "gkd", {"beta": config.beta, "on_policy_fraction": 1.0}
    if getattr(config, "shuffle_dataset", None) is False and kind not in ("GKDConfig", "SFTConfig"):
        given["train_sampling_strategy"] = "sequential"
    if unused:
        console.print(f"[yellow]from_trl: no effect here: {escape(', '.join(unused))}[/yellow]", soft_wrap=True)
    return GRKDConfig(**{**given, "method": method, "method_options": options or None, **changes})


def _grpo(config: Any, given: dict[str, Any], options: dict[str, Any]) -> None:
    """Batches in prompts, generations in optimiser steps, and the loss."""
    size, accumulation, n = (
        int(value)
        for value in (config.per_device_train_batch_size, config.gradient_accumulation_steps, config.num_generations)
    )
    if size * accumulation % n:
        raise UserError(
            f"from_trl: {size} x {accumulation} responses per device and step are not a whole number of groups of {n}; "
            "change per_device_train_batch_size, gradient_accumulation_steps or num_generations"
        )
    whole = size % n == 0
    given["per_device_train_batch_size"] = size // n if whole else 1
    given["gradient_accumulation_steps"] = accumulation if whole else size * accumulation // n
    given["per_device_eval_batch_size"] = max(1, int(config.per_device_eval_batch_size) // n)
    micro = config.steps_per_generation or accumulation
    if micro > accumulation and micro % accumulation:
        raise UserError(
            f"from_trl: steps_per_generation {micro} is not a multiple of gradient_accumulation_steps {accumulation}"
        )
    given["steps_per_generation"] = max(1, micro // accumulation)
    options.setdefault("clip_high", config.epsilon)
    scales = {"group": "group", "True": "group", "none": "none", "False": "none"}
    if str(config.scale_rewards) not in scales:
        raise UserError(f"from_trl: GRPOConfig(scale_rewards={config.scale_rewards!r}): use group or none")
    losses = {"grpo": "sequence", "dapo": "token", "bnpo": "token"}
    if config.loss_type not in losses:
        raise UserError(f"from_trl: GRPOConfig(loss_type={config.loss_type!r}): use grpo, dapo or bnpo")
    options |= {"scale": scales[str(config.scale_rewards)], "normalize": losses[config.loss_type]}


def _of_transformers(config: Any) -> dict[str, Any]:
    """TrainingArguments that differ from what transformers sets by itself; those it has made into objects are plain."""
    plain = TrainingArguments(output_dir=config.output_dir, use_cpu=config.use_cpu)
    found: dict[str, Any] = {"output_dir": config.output_dir, "use_cpu": config.use_cpu}
    for name in _OF_TRANSFORMERS:
        value: Any = getattr(config, name, None)
        if value != getattr(plain, name, None) and name not in _OLD_NAMES:
            value = value.to_dict() if hasattr(value, "to_dict") else value
            found[name] = float(value) if name in _FLOATS and isinstance(value, int) else value
    return found


def markdown() -> str:
    """The tables of docs/guide/from-trl.md."""
    kinds = {"same": "`GRKDConfig({})`", "option": '`method_options["{}"]`', "made": "`{}`", "without": "no effect"}
    parts = []
    for config, (method, arguments) in CONFIGS.items():
        lines = [f"## {config}: method `{method}`", "", "| TRL | here | |", "|---|---|---|"]
        for name, argument in sorted(arguments.items()):
            kind = argument.kind if argument.to or argument.kind != "made" else "without"
            here = kinds.get(kind, "an error unless it is TRL's default").format(argument.to)
            lines.append(f"| `{name}` | {here} | {argument.why} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
