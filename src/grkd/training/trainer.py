"""transformers' Trainer with a distillation objective: one class for language models and classifiers."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from grkd import schedules
from grkd.kernels import distillation_head
from grkd.objectives import Batch, Objective, Term, combine
from grkd.objectives.grkd import GRKD
from grkd.training.rows import Rows, RowSource


class DistillationTrainer(Trainer):
    """Trains a student with an objective of grkd.objectives.

    loss of an optimiser step = sum over its rows (tokens or examples, over micro-batches and ranks) / number of rows,
    so it does not depend on gradient accumulation or the number of ranks. Everything else (mixed precision, LoRA,
    checkpoints, resume, report_to, DDP, FSDP) is transformers' Trainer.

    objective: see grkd.objectives.load. rows: LanguageRows or ClassRows; it also collates the data set's examples.
    fused_head: compute the loss from hidden states by grkd.kernels.distillation_head where the method and the model
    allow it; None: on CUDA. The other arguments are those of transformers.Trainer.
    Several GPUs need `accelerate launch` (no DataParallel).
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *,
        objective: Objective,
        rows: RowSource,
        fused_head: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if args is not None:
            args.remove_unused_columns = False  # the collator reads our examples, not the model's argument names
            args._n_gpu = min(args.n_gpu, 1)
        super().__init__(model, args, data_collator=rows.collate, **kwargs)
        self.objective, self.rows = objective, rows
        # Both say: compute_loss divides by the global count itself (the second is what newer versions read).
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.fused_head = self.args.device.type == "cuda" if fused_head is None else fused_head
        self._sums: dict[str, Tensor] = {}
        self._counted: dict[str, Tensor] = {}
        rows.to(self.args.device)

    @property
    def progress(self) -> float:
        """0 at the first optimiser step, 1 at the last."""
        return schedules.progress_at(self.state.global_step, max(1, self.state.max_steps))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The micro-batches of one optimiser step and the number of their rows over all ranks."""
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = torch.tensor(float(sum(self.rows.count(batch) for batch in samples)), device=device)
        return samples, self.accelerator.reduce(count, reduction="sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum of the micro-batch's row losses over the step's number of rows (its own where that is not given)."""
        divisor = self.rows.count(inputs) if num_items_in_batch is None else num_items_in_batch
        # DDP and FSDP average gradients over ranks; the sum over ranks is wanted.
        scale = 1 if num_items_in_batch is None else self.accelerator.num_processes
        fused = None if return_outputs else self._fused_loss(model, inputs, divisor)
        if fused is not None:
            return fused * scale
        rows = self.rows.rows(model, inputs)
        terms = self.objective.terms(self._batch(rows))
        self._note(terms)
        loss = combine(terms, rows=divisor) * scale
        return (loss, rows.student) if return_outputs else loss

    def _fused_loss(self, model: nn.Module, inputs: dict[str, Any], divisor: Tensor | int) -> Tensor | None:
        """The same loss from hidden states, without the logits of the whole batch; None where that is not possible."""
        options = self.objective.head_options(self.progress) if self.fused_head else None
        if options is None:
            return None
        tensors = self.rows.head_inputs(model, inputs, torch.bfloat16 if self.args.bf16 else None)
        if tensors is None:
            return None
        loss: Tensor
        loss, parts = distillation_head(**tensors, **options, rows=divisor, parts=True)
        count = torch.tensor(float(self.rows.count(inputs)), device=loss.device)
        weights = {
            "group_relative": options["alpha"] * options.get("pair_scale", 1.0),
            "soft_target": (1 - options["alpha"]) * options.get("soft_scale", 1.0),
        }
        for name, part in (("group_relative", parts["group_relative"]), ("soft_target", parts["divergence"])):
            if weights[name]:
                self._add(name, part.detach().float() * divisor / weights[name], count)
        return loss

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Loss on the scale of training: row losses summed over all batches and ranks, divided once."""
        model = self._wrap_model(self.model, training=False, dataloader=dataloader)
        model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        with torch.no_grad():
            for batch in dataloader:
                batch = self._prepare_inputs(batch)
                count = self.rows.count(batch)
                with self.compute_loss_context_manager():
                    terms = self.objective.terms(self._batch(self.rows.rows(model, batch)))
                total += torch.stack([combine(terms, rows=1).double(), total.new_tensor(float(count))])
        loss_sum, count_sum = self.accelerator.reduce(total, reduction="sum").tolist()
        metrics = {f"{metric_key_prefix}_loss": loss_sum / max(1.0, count_sum)}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=int(count_sum))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the objective did since the last log: each term's mean in nats, alpha, progress."""
        if "loss" in logs and self._sums:
            names = list(self._sums)
            sums = torch.stack([torch.stack([self._sums[name], self._counted[name]]) for name in names])
            sums = self.accelerator.reduce(sums, reduction="sum")
            logs = dict(logs)
            for name, (total, count) in zip(names, sums.tolist(), strict=True):
                logs[f"terms/{name}"] = total / max(1.0, count)
            # The log follows the step, so it speaks of the progress that the step saw.
            last = schedules.progress_at(max(0, self.state.global_step - 1), max(1, self.state.max_steps))
            logs["progress"] = last
            if isinstance(self.objective, GRKD):
                logs["alpha"] = self.objective.alpha(last)
            self._sums.clear()
            self._counted.clear()
        super().log(logs, start_time)

    def _batch(self, rows: Rows) -> Batch:
        return Batch(student=rows.student, teacher=rows.teacher, labels=rows.labels, progress=self.progress)

    def _note(self, terms: tuple[Term, ...]) -> None:
        for term in terms:
            self._add(term.name, term.total().detach().float(), term.counted.sum().float())

    def _add(self, name: str, total: Tensor, count: Tensor) -> None:
        self._sums[name] = self._sums.get(name, torch.zeros_like(total)) + total
        self._counted[name] = self._counted.get(name, torch.zeros_like(count)) + count
