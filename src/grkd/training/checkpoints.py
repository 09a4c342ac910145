"""Checkpoints that are known to be complete: marked once everything is written, looked through before a resume."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from grkd.console import console
from grkd.errors import UserError
from grkd.files import read_json, write_json
from grkd.inventory import damages, inventory
from grkd.ranks import ranks, wait

_WHOLE = "whole"
_HASHED = 64 << 20  # bytes; larger files are compared by size, since hashing them would delay every checkpoint


class WholeCheckpoints(TrainerCallback):
    """Marks a checkpoint once everything of it is written, so that a half-written one is never resumed from.

    After the last step none is written, as transformers would: nothing is left to do from there, and where the last
    step is not an epoch's, transformers (5.23) resumes from it with one step too many.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        wait(f"checkpoint-{state.global_step}")  # every rank writes its own random state
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            write_json(folder / _WHOLE, inventory(folder, leave_out=(_WHOLE,), hash_up_to=_HASHED))


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end and is undamaged, or None.

    Says which damaged ones are passed over.
    """
    marked = [path.parent for path in folder.glob(f"checkpoint-*/{_WHOLE}")]
    for path in sorted(marked, key=lambda path: int(path.name.rsplit("-", 1)[1]), reverse=True):
        reason = _damage(path)
        if reason is None:
            return path
        if ranks().is_main_process:
            console.print(
                f"[yellow]{path.name} is damaged: {reason}; resuming from an older checkpoint[/yellow]", soft_wrap=True
            )
    return None


def without_tied(model: nn.Module, missing: Iterable[str]) -> list[str]:
    """The missing names without those of weights that the checkpoint holds under another name (tied weights)."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    left = set(missing)
    for same in names.values():
        if not left.issuperset(same):
            left -= same
    return sorted(left)


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a marked checkpoint; None if nothing is."""
    try:
        found = damages(checkpoint, read_json(checkpoint / _WHOLE), hash_up_to=_HASHED)
    except (UserError, OSError, AttributeError, TypeError):
        return "its list of files cannot be read"
    return ", ".join(found[:3]) if found else None
