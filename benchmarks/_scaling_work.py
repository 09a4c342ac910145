"""One launch of benchmarks/scaling.py: every process trains the named cases; the first writes a row per case.

    python -m benchmarks._scaling_work [--tiny] FOLDER STEPS "PAIR: CASE" [...]      (alone, or under torchrun)

A case that fails is named on standard output and left out; among several processes it ends the launch. Teachers are
kept from one case to the next where both have the same.
"""

import gc
import itertools
import json
import os
import statistics
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from benchmarks._pairs import END, PAD, built, configs, gib, on_meta, random_layer
from benchmarks._ways import use
from benchmarks.scaling import row_file
from grkd import objectives
from grkd.data.language import Item
from grkd.models.shard import is_sharded, shard
from grkd.ranks import gathered, ranks
from grkd.recipe import Training
from grkd.run.training import arguments
from grkd.training import DistillationTrainer, LanguageRows

GIB = 2**30
WARM_UP = 2  # steps that are not measured
BATCH, PROMPT, RESPONSE = 16, 256, 512  # per GPU; tokens
LARGE_BATCH = 8
# What a case is: how the student is spread, where the teacher lies, and in what the student's weights are kept.
CASES: dict[str, tuple[str, str, str]] = {
    "grkd, DDP": ("ddp", "whole", "float32"),
    "grkd, DDP, bfloat16 weights": ("ddp", "whole", "bfloat16"),
    "grkd, DDP, compiled": ("ddp", "whole", "float32"),
    "grkd, FSDP2": ("fsdp", "whole", "float32"),
    "grkd, FSDP2, compiled": ("fsdp", "whole", "float32"),
    "grkd, FSDP2, teacher sharded": ("fsdp", "sharded", "float32"),
    "grkd, FSDP2, teacher offloaded": ("fsdp", "offloaded", "float32"),
    "grkd, teacher offloaded, bfloat16 weights": ("ddp", "offloaded", "bfloat16"),
    "TRL, DDP, bfloat16 weights": ("ddp", "whole", "bfloat16"),
}


class Clock(TrainerCallback):
    """Milliseconds of every step after the warm-up, and the memory that they needed."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        mark(f"step {state.global_step}")
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step == WARM_UP and torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        if state.global_step >= WARM_UP:
            self.marks.append(time.perf_counter())

    def steps_ms(self) -> list[float]:
        return [1000 * (after - before) for before, after in zip(self.marks, self.marks[1:], strict=False)]


class Launch:
    """The models and settings of this launch."""

    def __init__(self, pair: str, folder: Path, steps: int, *, tiny: bool) -> None:
        self.pair, self.folder, self.steps, self.tiny = pair, folder, steps, tiny
        state = ranks()
        self.device, self.processes = state.device, state.num_processes
        self.teacher_config, self.student_config = configs(pair, tiny=tiny)
        self.batch = 2 if tiny else LARGE_BATCH if pair.startswith("large") else BATCH
        self.prompt, self.response = (4, 8) if tiny else (PROMPT, RESPONSE)
        self.teacher_dtype = torch.float32 if tiny else torch.bfloat16
        self._teacher: tuple[str, PreTrainedModel] | None = None
        if self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)
        self.facts: dict[str, Any] = self._limited() if pair.startswith("large") else {}

    def _limited(self) -> dict[str, Any]:
        """Let each GPU hold half of the teacher's weights at most."""
        teacher_gib = gib(self.teacher_config, self.teacher_dtype)
        if self.device.type == "cuda":
            there = torch.cuda.get_device_properties(self.device).total_memory / GIB
            torch.cuda.set_per_process_memory_fraction(teacher_gib / 2 / there, self.device)
        return {"teacher_gib": round(teacher_gib, 1), "limit_gib_per_gpu": round(teacher_gib / 2, 1)}

    def teacher(self, placement: str) -> PreTrainedModel:
        """The teacher, kept from the case before if it lies where it should; a sharded one has random layers, too."""
        if self._teacher is not None and self._teacher[0] == placement:
            return self._teacher[1]
        self._teacher = None
        free()
        if placement == "whole":
            made = built(self.teacher_config, self.teacher_dtype, self.device, seed=0).eval().requires_grad_(False)
        else:
            layers = itertools.count(1)

            def prepare(layer: nn.Module) -> None:
                mark(f"layer {next(layers)} of {self.teacher_config.num_hidden_layers} of the teacher")
                random_layer(layer, self.device)

            made = shard(
                on_meta(self.teacher_config, self.teacher_dtype, self.device),
                self.device,
                offload=placement == "offloaded",
                prepare=prepare,
            )
        self._teacher = placement, made
        return made

    def items(self) -> list[Item]:
        """Examples of equal length for all steps of all processes."""
        count = self.batch * self.processes * (WARM_UP + self.steps)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(
            4, self.student_config.vocab_size, (count, self.prompt + self.response), generator=generator
        )
        ids[:, -1] = END
        return [Item(str(at), row[: self.prompt], row[self.prompt :]) for at, row in enumerate(ids.tolist())]

    def trainer(self, case: str) -> Any:
        """The trainer of a case, its student fresh."""
        way, placement, weights = CASES[case]
        use(way)
        mark(f"{self.pair}: {case}: the teacher")
        teacher = self.teacher(placement)
        mark("the student")
        dtype = torch.float32 if self.tiny else getattr(torch, weights)
        student = built(self.student_config, dtype, self.device, seed=1).train()
        if case.startswith("TRL"):
            from benchmarks._scaling_peer import trl_trainer

            return trl_trainer(self, teacher, student)
        training = Training(
            steps=WARM_UP + self.steps,
            batch_size=self.batch,
            learning_rate=1e-6,
            schedule="constant",
            warmup=0.0,
            gradient_checkpointing=True,
        )
        bf16 = weights == "float32" and self.device.type == "cuda"
        settings = arguments(
            training, folder=self.folder / "run", seed=0, where=self.device, bf16=bf16, run_name="scaling"
        )
        settings.save_strategy = SaveStrategy.NO  # a checkpoint at the end takes ten times as long as the steps
        return DistillationTrainer(
            student,
            settings,
            objective=objectives.load("grkd"),
            rows=LanguageRows(pad_token_id=PAD, vocabulary=self.student_config.vocab_size, teacher=teacher),
            train_dataset=self.items(),
            compile_layers=case.endswith("compiled"),
        )

    def measured(self, case: str) -> dict[str, Any]:
        """A row of the result."""
        begun = time.perf_counter()
        trainer, clock = self.trainer(case), Clock()
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(clock)
        made = time.perf_counter() - begun
        trainer.train()
        parameters = list(trainer.model_wrapped.parameters())
        spread = sum(isinstance(each, DTensor) for each in parameters)
        mark(f"of the student's {len(parameters)} parameters {spread} are DTensors, over {self.processes} process(es)")
        assert is_sharded(trainer.model_wrapped) == (CASES[case][0] == "fsdp"), "the student is not spread as it says"
        peak = torch.cuda.max_memory_allocated() / GIB if self.device.type == "cuda" else 0.0
        step_ms = statistics.median(clock.steps_ms())
        tokens = self.batch * self.processes * (self.prompt + self.response)
        return {
            "pair": self.pair,
            "case": case,
            "gpus": self.processes,
            "step_ms": round(step_ms, 1),
            "tokens_per_second": round(tokens / step_ms * 1000),
            "peak_gib_per_gpu": round(max(gathered([peak], case)), 1),
            "loss": trainer.state.log_history[0].get("loss"),
            "made_seconds": round(made, 1),
            "examples_per_gpu": self.batch,
            "parameters_sharded": [spread, len(parameters)],
        }


def mark(text: str) -> None:
    """A line of the first process: the log says when it came, so where a case that is cut has its time."""
    if ranks().is_main_process:
        print(text, flush=True)


def free() -> None:
    """Give the GPU's memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main() -> None:
    tiny = sys.argv[1] == "--tiny"
    folder, steps, *words = sys.argv[1 + tiny :]
    launch: Launch | None = None
    mark("modules imported")
    for word in words:
        pair, case = word.split(": ")
        try:
            if launch is None or launch.pair != pair:
                launch = None
                free()
                launch = Launch(pair, Path(folder), int(steps), tiny=tiny)
            row = launch.measured(case) | launch.facts
        except Exception:  # one case must not cost the others
            print(f"{word} failed on process {ranks().process_index}", flush=True)
            traceback.print_exc()
            if ranks().num_processes > 1:
                os._exit(1)  # the others wait for this one
            continue
        finally:
            free()
        if ranks().is_main_process:
            (Path(folder) / row_file(word, launch.processes)).write_text(json.dumps(row), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
