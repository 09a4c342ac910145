"""LoRA through peft, imported only where a recipe asks for it."""

from typing import Any

from transformers import PreTrainedModel

from grkd.errors import UserError
from grkd.models.adapters import ties_are_ours, untie_adapted
from grkd.models.load import one_line
from grkd.recipe import Lora


def adapted(student: PreTrainedModel, lora: Lora) -> Any:
    """The student with low-rank adapters. Raises UserError if peft is not installed or finds no such module."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("student.lora needs peft: pip install 'grkd[lora]'") from None
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )
    try:
        with ties_are_ours():
            made = get_peft_model(student, config)
    except (ValueError, RuntimeError) as error:  # RuntimeError: more memory than there is
        raise UserError(f"student.lora: {one_line(error)}") from None
    untie_adapted(made)
    return made
