"""transformers' Trainer with a distillation objective: one class for language models and classifiers."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, get_last_checkpoint

from grkd import schedules
from grkd.errors import UserError
from grkd.kernels import distillation_head
from grkd.models.adapters import shares_weights
from grkd.models.shard import check_same_weights, is_sharded
from grkd.objectives import Level, Objective, combine
from grkd.ranks import gathered
from grkd.training.checkpoints import without_tied
from grkd.training.compiled_layers import FLOPS_PER_SECOND, CompiledLayers, flops_left
from grkd.training.evaluation import keeping_examples, loss_and_measures, prefixed
from grkd.training.evaluation_metrics import Measured
from grkd.training.float32_masters import Float32Masters, say_lost_steps
from grkd.training.order_in_training import OrderInTraining
from grkd.training.rows import REPEATED, Counts, RowSource, since_the_last_log
from grkd.training.several_processes import trial_pass
from grkd.training.step_batches import SampledAhead, StepBatches, in_passes
from grkd.training.term_sums import TermSums
from grkd.training.time_limit import PARTS, TimeLimit


class DistillationTrainer(StepBatches):
    """Trains a student with an objective of grkd.objectives.

    loss of an optimiser step = at each level, sum over its rows (tokens, examples or prompts, over micro-batches and
    ranks) / number of rows, so it does not depend on gradient accumulation or the number of ranks. On-policy methods
    have the student answer their share of the step's prompts before it. Everything else (mixed precision, LoRA,
    checkpoints, resume, report_to, DDP, FSDP) is transformers' Trainer.

    objective: see grkd.objectives.load. rows: LanguageRows or ClassRows; it also collates the data set's examples.
    fused_head: compute the loss from hidden states by grkd.kernels.distillation_head if the method and the model
    allow it; None: on CUDA. steps_per_generation: on-policy methods sample the responses of so many optimiser steps at
    once, before the first of them (fewer at the end of an epoch). The later
    steps then learn from a student some steps old: minillm's importance weights account for that, gkd and grkd have
    none. Other methods never sample. compile_layers: student's and teacher's, by torch.compile; None: on a GPU, where
    the training is long enough to pay for it. float32_masters: the optimiser keeps float32 copies of 16-bit weights
    (grkd.training.float32_masters). time_limit: also among the callbacks; schedules then go by its clock, and
    args.max_steps is NO_LAST_STEP. The other arguments are those of transformers.Trainer.
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
        steps_per_generation: int = 1,
        compile_layers: bool | None = False,
        float32_masters: bool = False,
        time_limit: TimeLimit | None = None,
        **kwargs: Any,
    ) -> None:
        if steps_per_generation < 1:
            raise UserError(f"steps_per_generation must be 1 or more, got {steps_per_generation}")
        if args is not None:
            args.remove_unused_columns = False  # the collator reads our examples, not the model's argument names
            args._n_gpu = min(args.n_gpu, 1)
        super().__init__(model, args, data_collator=rows.collate, **kwargs)
        # cuDNN's attention gives NaN gradients where a query sees no key, as padding on the left does, at lengths that
        # are multiples of 64 (seen with torch 2.11 on an H100, bfloat16); the other forms do not.
        torch.backends.cuda.enable_cudnn_sdp(False)
        if shares_weights(getattr(rows, "teacher", None), self.model):
            raise UserError(
                "the teacher shares weights with the student, which would be frozen; give a copy of it "
                "(copy.deepcopy), or use GRKDTrainer, which makes one"
            )
        check_same_weights(getattr(rows, "teacher", None), "teacher")
        self.objective, self.rows = objective, rows
        if self.accelerator.num_processes > 1:
            self.data_collator = keeping_examples(rows.collate)
        self._fresh_share = rows.fresh_share(objective)
        # Both say: compute_loss divides by the global count itself (the second is what newer versions read).
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.fused_head = self.args.device.type == "cuda" if fused_head is None else fused_head
        self.steps_per_generation, self.float32_masters = steps_per_generation, float32_masters
        if float32_masters and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError(
                "float32_masters: not with sharded weights; load the student in float32 and set bf16 instead"
            )
        self._limit = time_limit
        self._ahead = SampledAhead()
        self._logged_at: int | None = None
        self._rows_seen = torch.zeros((), dtype=torch.float64, device=self.args.device)
        self._terms = TermSums()
        rows.to(self.args.device, student=self.model, dtype=torch.bfloat16 if self.args.bf16 else None)
        teacher = getattr(rows, "teacher", None)
        models = [each for each in (self.model, teacher) if isinstance(each, nn.Module) and not is_sharded(each)]
        sharded = self.accelerator.distributed_type == DistributedType.FSDP
        self._compiled = CompiledLayers(models, wanted=compile_layers, device=self.args.device, sharded=sharded)
        self._begun = compile_layers is False
        self._order = OrderInTraining()

    @property
    def progress(self) -> float:
        """0 at the first optimiser step, 1 at the last."""
        if self._limit is not None:
            return self._limit.progress
        return schedules.progress_at(self.state.global_step, max(1, self.state.max_steps))

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The learning rate's schedule, over the steps or over the time limit."""
        if self._limit is None:
            return super().create_scheduler(num_training_steps, optimizer)
        return self._limit.paced(super().create_scheduler(PARTS, optimizer))

    def create_optimizer(self, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
        """As transformers' Trainer; with float32_masters around its optimiser."""
        made: torch.optim.Optimizer = super().create_optimizer(*arguments, **options)
        if self.float32_masters and not isinstance(made, Float32Masters):
            made = self.optimizer = Float32Masters(made)
        return made

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One micro-batch, in as many passes as its row source makes of it; gradients add up."""
        step = super().training_step
        parts = self.rows.passes(inputs, whole=self.objective.couples_rows)
        if not self._begun:
            self._begun = True
            self._begin_compiled(model, parts, lambda: step(model, dict(parts[0]), num_items_in_batch))
        return in_passes(lambda part: step(model, part, num_items_in_batch), parts, self.accelerator, model)

    def _begin_compiled(self, model: nn.Module, parts: list[dict[str, Any]], step: Callable[[], object]) -> None:
        """Compile the layers if that pays; the first pass, which compiles, leaves nothing behind."""
        if self._limit is None:
            steps = self.state.max_steps - self.state.global_step
            flops = flops_left(model, getattr(self.rows, "teacher", None), parts, self.args, steps=steps)
        else:
            flops = self._limit.left * FLOPS_PER_SECOND
        # One decision of all ranks, whose first batches differ.
        flops = max(gathered([flops], "whether to compile"))

        def warm_up() -> None:
            on_gpu = [self.args.device] if self.args.device.type == "cuda" else []
            with torch.random.fork_rng(on_gpu), trial_pass(self.accelerator, model):
                step()

        try:
            self._compiled.begin(flops, warm_up)
        finally:
            model.zero_grad()
            self._terms.clear()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum of the micro-batch's row losses over the step's number of rows (its own if that is not given)."""
        own, repeated = self._counts(inputs), inputs.pop(REPEATED, False)
        divisors: Mapping[Level, Tensor | int] = own if num_items_in_batch is None else self._step_counts
        # DDP and FSDP average gradients over ranks; the sum over ranks is wanted.
        scale = 1 if num_items_in_batch is None else self.accelerator.num_processes
        levels = self.objective.levels
        options = self.objective.head_options(self.progress) if self.fused_head and "row" in levels else None
        forward = self.rows.forward(
            model,
            inputs,
            levels=levels,
            fused=options is not None and not return_outputs,
            dtype=torch.bfloat16 if self.args.bf16 else None,
        )
        if self._tracked():
            self._order.see(forward)
        losses = []
        if forward.head_inputs is not None:
            assert options is not None
            losses.append(self._fused_loss(forward.head_inputs, options, divisors["row"], own, noted=not repeated))
        for level, batch in forward.batches.items():
            terms = self.objective.terms(replace(batch, progress=self.progress))
            if not repeated:
                self._terms.note(terms, "" if level == levels[0] else f"_of_{level}s")
            losses.append(combine(terms, rows=divisors[level], tokens=divisors["row"]))
        # A rank with repeated examples alone still takes part: gradients are gathered from all.
        loss = torch.stack(losses).sum() * (0 if repeated else scale)
        return (loss, next(iter(forward.batches.values())).student) if return_outputs else loss

    def _tracked(self) -> bool:
        """Whether this step is logged, and a tracker draws what it says."""
        step = self.state.global_step + 1
        logged = step % max(1, self.state.logging_steps) == 0 or (step == 1 and self.args.logging_first_step)
        return bool(self.args.report_to) and logged and self.model.training

    def _fused_loss(
        self, inputs: dict[str, Any], options: dict[str, Any], divisor: Tensor | int, own: Counts, *, noted: bool
    ) -> Tensor:
        """The loss of token rows from hidden states, without the logits of the whole batch."""
        loss: Tensor
        loss, parts = distillation_head(**inputs, **options, rows=divisor, parts=True)
        count = torch.full((), float(own["row"]), device=loss.device)
        pairs, divergence = self.objective.head_names
        for name, part, weight in (
            (pairs, parts["group_relative"], options["alpha"] * options.get("pair_scale", 1.0)),
            (divergence, parts["divergence"], (1 - options["alpha"]) * options.get("soft_scale", 1.0)),
        ):
            if weight and noted:
                self._terms.add(name, part.detach().float() * divisor / weight, count)
        return loss

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Loss on the scale of training: row losses summed over all batches and ranks, divided once.

        At the end of training (progress 1), so that it can be compared over training; groups that are sampled are the
        same each time, and training's own random state stays as it was.
        """
        model = self._wrap_model(self.model, training=False, dataloader=dataloader)
        model.eval()
        on_gpu = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(on_gpu):
            torch.manual_seed(self.args.seed)
            measured = self._measured()
            with self._compiled.paused():
                loss, rows = loss_and_measures(
                    model,
                    dataloader,
                    objective=self.objective,
                    rows=self.rows,
                    accelerator=self.accelerator,
                    prepared=self._prepare_inputs,
                    autocast=self.compute_loss_context_manager,
                    batch_size=self.args.eval_batch_size,
                    seed=self.args.seed,
                    measured=measured,
                )
        metrics = {f"{metric_key_prefix}_loss": loss}
        if measured is not None:
            metrics |= prefixed(measured.reduced(self.accelerator), metric_key_prefix)
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=rows)

    def _measured(self) -> Measured | None:
        """What the next evaluation measures beside the loss; None: nothing. Overridden by GRKDTrainer."""
        return None

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        load_result.missing_keys[:] = without_tied(self.model, load_result.missing_keys)
        super()._issue_warnings_after_load(load_result)

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **options: Any) -> Any:
        """As transformers' Trainer, after a look at whether its steps can move 16-bit weights."""
        kept = self.float32_masters or is_sharded(self.model)
        if self.is_world_process_zero() and not kept:  # sharded: it has been trained, and this was said
            say_lost_steps(self.model, self.args)
        found = get_last_checkpoint(str(self.args.output_dir)) if resume_from_checkpoint is True else None
        self._keep_plain()
        self._logged_at, self._rows_seen = None, torch.zeros_like(self._rows_seen)
        self._ahead.resume_from(resume_from_checkpoint if isinstance(resume_from_checkpoint, str) else found)
        return super().train(resume_from_checkpoint, *arguments, **options)

    def _save_checkpoint(self, *arguments: Any) -> None:
        with nullcontext() if self._limit is None else self._limit.clock.paused():
            super()._save_checkpoint(*arguments)
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        self._ahead.save(folder, self.accelerator.process_index)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the objective did since the last log: each term's mean in nats, alpha, progress."""
        if "loss" in logs:  # never by what this rank has counted: at an epoch's end it may be nothing
            logs = dict(logs) | self._terms.means(self.accelerator)
            # The log follows the step, so it speaks of the progress that the step saw.
            step, most = max(0, self.state.global_step - 1), max(1, self.state.max_steps)
            last = schedules.progress_at(step, most) if self._limit is None else self._limit.seen
            logs["progress"] = last
            logs["rows_seen"] = self._rows_seen.item()
            logs |= self.objective.logged(last)
            logs |= self._order.logged()
            logs |= since_the_last_log(self.rows, self.state.global_step - (self._logged_at or 0), self.accelerator)
            self._logged_at = self.state.global_step
        super().log(logs, start_time)
