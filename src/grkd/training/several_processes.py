"""What transformers' Trainer leaves to be done when several processes train one student."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import has_length

from grkd.models.shard import PlainCopy
from grkd.training.evaluation import without_repeats
from grkd.training.rows import RowSource


@contextmanager
def trial_pass(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """A pass whose gradients zero_grad takes away afterwards, in any micro-batch of a step.

    They are not exchanged: where the pass fails on one process the others would wait for it. FSDP2 does exchange them,
    since it keeps those that are not where zero_grad does not reach.
    """
    exchange = getattr(model, "set_requires_gradient_sync", None)
    with accelerator.no_sync(model):
        if exchange is not None:
            exchange(True)
        yield
    if exchange is not None:
        exchange(accelerator.sync_gradients)


class SeveralProcesses(Trainer):
    """A Trainer that counts every example of an epoch once, and gives and saves a sharded student whole."""

    rows: RowSource
    _plain: PlainCopy | None = None  # of a student that FSDP2 shards

    def _keep_plain(self) -> None:
        """Before the student is sharded: keep what a whole copy of it is made from."""
        if self.is_fsdp_enabled and self._plain is None:
            self._plain = PlainCopy(self.model)

    def _micro_batches(self, epoch_iterator: Iterator[Any], count: int, device: torch.device) -> list[dict[str, Any]]:
        """The next micro-batches, every example of an epoch once."""
        batches, _ = super().get_batch_samples(epoch_iterator, count, device)
        if self.accelerator.num_processes == 1:
            return batches
        whole = self.args.dataloader_drop_last or self.accelerator.split_batches or not has_length(self.train_dataset)
        examples = 0 if whole else len(self.train_dataset)
        # Who asks for more than there are goes past the end, where accelerate forgets that it was reached.
        ended = len(batches) < count or self.accelerator.gradient_state.end_of_dataloader
        own = without_repeats(batches, self.rows, self.accelerator, self.args.train_batch_size, examples, ended=ended)
        return [self._prepare_inputs(batch) for batch in own]

    def student_now(self) -> nn.Module:
        """The student as it is now; a whole copy if its weights are sharded, so that ranks need not wait for each
        other's tokens."""
        if self._plain is None:
            return self.model_wrapped
        return self._plain.refreshed(self.model, torch.bfloat16 if self.args.bf16 else None)

    def whole_student(self, *, everywhere: bool = False) -> nn.Module | None:
        """The student with all its weights; if they are sharded, on the main process alone, and None on the others.

        everywhere: on every process, frozen. Every process must call it.
        """
        if self._plain is None:
            # Without the mixed precision of training: a student that is loaded from its folder computes the same.
            whole: nn.Module = self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)
            return whole
        if everywhere:
            return PlainCopy(self._plain.model).refreshed(self.model)
        state = self.accelerator.get_state_dict(self.model_wrapped)
        return self._plain.holding(state) if self.accelerator.is_main_process else None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As transformers' Trainer, which saves nothing here where checkpoints are sharded: then the whole student."""
        super().save_model(output_dir, _internal_call)
        if self.is_fsdp_enabled and not _internal_call:
            kind = str(self.accelerator.state.fsdp_plugin.state_dict_type)
            if "FULL_STATE_DICT" not in kind:
                self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))
