"""The micro-batches of an optimiser step: their order, new responses if the method asks for them, counts; passes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import has_length

from grkd.data.language import example_length
from grkd.errors import UserError
from grkd.files import whole_file
from grkd.objectives import Level, Objective
from grkd.ranks import waiting_for
from grkd.training.compiled_layers import CompiledLayers
from grkd.training.on_policy import mixed
from grkd.training.rows import DRAW_SEED, REPEATED, Counts, draw_seed
from grkd.training.several_processes import SeveralProcesses


class SampledAhead:
    """A queue that belongs to one pass over the data; a checkpoint in the middle of a generation holds what is left.

    batches: the queue. rank: each rank keeps its own file.
    """

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self._of: Iterator[Any] | None = None
        self._checkpoint: Path | None = None

    def resume_from(self, checkpoint: str | None) -> None:
        """Take up what this checkpoint holds when the next training begins."""
        self._checkpoint = None if checkpoint is None else Path(checkpoint)

    def save(self, checkpoint: Path, rank: int) -> None:
        """Write the queue into a checkpoint's folder."""
        if self.batches:
            with whole_file(_file(checkpoint, rank)) as aside:
                torch.save(self.batches, aside)

    def follow(self, iterator: Iterator[Any], rank: int, device: torch.device) -> None:
        """Begin with a new pass over the data: empty, or with what a checkpoint holds."""
        if iterator is self._of:
            return
        self.batches, self._of = [], iterator  # what is left of a training that stopped early is of no use
        path = None if self._checkpoint is None else _file(self._checkpoint, rank)
        self._checkpoint = None
        if path is not None and path.exists():
            # Our own file, which holds groups beside tensors.
            self.batches = torch.load(path, map_location=device, weights_only=False)
            for _ in self.batches:  # they come from the same examples
                next(iterator)

    def take(self, count: int) -> list[dict[str, Any]]:
        """The next batches, which leave the queue."""
        taken, self.batches = self.batches[:count], self.batches[count:]
        return taken


def _file(checkpoint: Path, rank: int) -> Path:
    return checkpoint / f"sampled-{rank}.pt"


class StepBatches(SeveralProcesses):
    """A Trainer that knows, before the first micro-batch of a step, how many rows all of them have."""

    objective: Objective
    steps_per_generation: int
    _fresh_share: float  # of the examples that the student answers again
    _ahead: SampledAhead
    _compiled: CompiledLayers
    _step_counts: dict[Level, Tensor]  # of the current step, over all ranks
    _rows_seen: Tensor
    _logged_at: int | None  # the step of the last log, or the one that this training begins or resumes at

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The micro-batches of one optimiser step and the number of their rows over all ranks."""
        if self._logged_at is None:
            self._logged_at = self.state.global_step
        if self._fresh_share:
            samples = self._sampled(epoch_iterator, num_batches, device)
        else:
            samples = self._micro_batches(epoch_iterator, num_batches, device)
        step_seed = mixed(self.args.seed, self.state.global_step)
        for number, batch in enumerate(samples):
            batch[DRAW_SEED] = draw_seed(step_seed, self._first_example(number, self.args.train_batch_size))
        counts = [self._counts(batch) for batch in samples]
        levels: tuple[Level, ...] = ("row", *(level for level in self.objective.levels if level != "row"))
        sums = [float(sum(count[level] for count in counts)) for level in levels]
        # Filled on the device: a copy would wait for all that a GPU still has to do of the step before.
        totals = torch.stack([torch.full((), total, device=device) for total in sums])
        with waiting_for("the responses of a step") if self._fresh_share else nullcontext():
            totals = self.accelerator.reduce(totals, reduction="sum")
        self._step_counts = dict(zip(levels, totals, strict=True))
        self._rows_seen = self._rows_seen + totals[0].double()
        return samples, totals[0]

    def _sampled(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> list[dict[str, Any]]:
        """The step's micro-batches with answers of the student as it is now, or was when they were sampled ahead."""
        self._ahead.follow(epoch_iterator, self.accelerator.process_index, device)
        if not self._ahead.batches:
            steps = max(1, min(self.steps_per_generation, self.state.max_steps - self.state.global_step))
            batches = self._micro_batches(epoch_iterator, steps * num_batches, device)
            self._ahead.batches = self._renewed(batches, num_batches)
        return self._ahead.take(num_batches)

    def _counts(self, batch: dict[str, Any]) -> Counts:
        counts = self.rows.count(batch)
        return dict.fromkeys(counts, 0) if REPEATED in batch else counts

    def _renewed(self, batches: Sequence[dict[str, Any]], a_step: int) -> list[dict[str, Any]]:
        """Micro-batches of the coming steps, `a_step` each, their on-policy share answered by the student as it is."""
        start, size = self.state.global_step, self.args.train_batch_size
        places = [
            (start + number // a_step, self._first_example(number % a_step, size)) for number in range(len(batches))
        ]
        # Mixed precision as in the step itself, where accelerate has it in the student's wrapped `forward` alone.
        with self.accelerator.autocast(), self._compiled.paused():
            renewed = self.rows.renew(self.student_now(), batches, self.objective, seed=self.args.seed, places=places)
        for batch, old in zip(renewed, batches, strict=True):
            batch |= {REPEATED: True} if REPEATED in old else {}
        return renewed

    def _first_example(self, micro_batch: int, size: int) -> int:
        """The number, in its optimiser step, of the first example of this rank's micro-batch.

        Ranks take micro-batches of the data in turn, so an example's number does not depend on the split.
        """
        return (micro_batch * self.accelerator.num_processes + self.accelerator.process_index) * size

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        strategy = getattr(self.args, "train_sampling_strategy", "random")
        if strategy not in ("group_by_length", "batch_rebalance"):
            return super()._get_train_sampler(train_dataset)
        lengths = [example_length(example) for example in dataset]
        if strategy == "batch_rebalance" or None in lengths:
            raise UserError(
                f"train_sampling_strategy: {strategy} is not for {self.rows.unit}; set it to random or sequential"
            )
        return LengthGroupedSampler(
            self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths=cast(list[int], lengths)
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """In the order of the data: the loss does not depend on it."""
        return SequentialSampler(eval_dataset) if has_length(eval_dataset) and self.args.world_size <= 1 else None


def in_passes(
    step: Callable[[dict[str, Any]], Tensor],
    parts: Sequence[dict[str, Any]],
    accelerator: Accelerator,
    model: nn.Module,
) -> Tensor:
    """The sum of `step` (forward and backward of a part, which gives its loss) over the parts.

    Every rank makes as many passes as the one with most, repeating its last one for nothing: sharded models wait for
    each other in each. Gradients of DDP are exchanged in the last one alone.
    """
    parts = list(parts)
    if accelerator.num_processes > 1:
        count = torch.tensor([len(parts)], device=accelerator.device)
        most = int(accelerator.gather(count).max())
        parts += [{**parts[-1], REPEATED: True} for _ in range(most - len(parts))]
    exchanged_once = accelerator.distributed_type in (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    losses = []
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        with nullcontext() if last or not exchanged_once else accelerator.no_sync(model):
            losses.append(step(part))
    return torch.stack(losses).sum()
