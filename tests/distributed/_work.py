"""Trainings of tiny models as every process of a launch does them, by name; a process alone gives the oracle.

    python tests/distributed/_work.py DEVICE FOLDER ddp|fsdp NAME [NAME ...] [ddp|fsdp NAME ...]

What a training made goes to FOLDER/WAY-NAME.pt, written by the main process. After `fsdp` students are sharded.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from grkd.ranks import gathered, ranks
from grkd.training import WholeCheckpoints, last_whole_checkpoint
from grkd.training.compiled_layers import CompiledLayers
from tests.distributed._agreement import agreement
from tests.distributed._trainers import arguments, state_of, trainer
from tests.distributed._unequal import asked_unevenly, by_vllm, reference, sharded_teacher
from tests.distributed._ways import use
from tests.kernels._sharded import tiny


def steps(folder: Path, device: str) -> dict[str, Any]:
    """Twenty steps over uneven epochs, and the loss of an evaluation set."""
    made = trainer(folder, device, "kd", batch=4)
    made.train()
    return {"weights": state_of(made), "eval_loss": made.evaluate()["eval_loss"]}


def fused(folder: Path, device: str) -> dict[str, Any]:
    """A few steps from hidden states, without logits, with gradient accumulation."""
    made = trainer(folder, device, "grkd", batch=2, max_steps=4, gradient_accumulation_steps=2)
    made.fused_head = True
    made.train()
    return {"weights": state_of(made)}


def packed(folder: Path, device: str) -> dict[str, Any]:
    """Rows of at most 20 tokens: the second process has an example less to learn from, so fewer passes at times."""
    made = trainer(folder, device, "grkd", batch=4, max_steps=4, tokens_per_batch=20)
    made.train()
    assert made.rows.tokens_per_batch == 20  # no batch was padded after all
    return {"weights": state_of(made)}


def logged(folder: Path, device: str) -> dict[str, Any]:
    """A line for every step of an epoch and a half: the second process has no example of its own in the third step."""
    compute: list[float] = []

    class Decision(CompiledLayers):
        def begin(self, flops: float, warm_up: Callable[[], object]) -> None:
            compute.append(flops)

    made = trainer(folder, device, "grkd", batch=4, max_steps=4, logging_steps=1.0)
    made._compiled, made._begun = Decision([], wanted=None, device=torch.device(device)), False
    made.train()
    names = ("loss", "rows_seen", "alpha", "terms/group_relative", "terms/soft_target")
    lines = [{name: line[name] for name in names if name in line} for line in made.state.log_history if "loss" in line]
    found = {"weights": state_of(made), "lines": lines, "compute": gathered(compute, "compute")}
    return found | {"fused": made.fused_head}


def compiled(folder: Path, device: str) -> dict[str, Any]:
    """A few steps with the layers of student and teacher compiled; on a CPU the graphs are run as they are.

    By plain gradient descent, in which a gradient that the first pass leaves behind shows.
    """
    plain: dict[str, Any] = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1e-2}
    plain |= {"max_steps": 4, "gradient_accumulation_steps": 2}
    made = trainer(folder, device, "kd", batch=2, compile_layers=True, **plain)
    made._compiled.backend = "eager" if device == "cpu" else "inductor"
    made.train()
    assert made._compiled.on, "compilation failed"
    return {"weights": state_of(made)}


def on_policy(folder: Path, device: str) -> dict[str, Any]:
    """Steps on responses that the student samples before every second one; an epoch's end breaks one off."""
    made = trainer(folder, device, "gkd", batch=4, max_steps=4, steps_per_generation=2)
    made.train()
    return {"weights": state_of(made)}


def resumed(folder: Path, device: str) -> dict[str, Any]:
    """Twenty steps, broken off after eleven and taken up from the checkpoint of step eight."""

    class Killed(Exception):
        pass

    class Kill(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 11:
                raise Killed

    settings = {"save_strategy": "steps", "save_steps": 8}
    first = trainer(folder, device, "kd", batch=4, **settings)
    first.add_callback(WholeCheckpoints())
    first.add_callback(Kill())
    try:
        first.train()
        raise AssertionError("it must be broken off")
    except Killed:
        pass
    checkpoint = last_whole_checkpoint(folder)
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-8"
    made = trainer(folder, device, "kd", batch=4, **settings)
    made.add_callback(WholeCheckpoints())
    made.train(resume_from_checkpoint=str(checkpoint))
    return {"weights": state_of(made), "begun_at": checkpoint.name}


def lora(folder: Path, device: str) -> dict[str, Any]:
    """GRKDTrainer with LoRA and gradient accumulation; the adapter as save_model leaves it, and who tokenised."""
    from peft import LoraConfig
    from safetensors.torch import load_file

    from grkd.training import GRKDConfig, GRKDTrainer
    from tests.conftest import word_tokenizer

    read: list[int] = []

    class Records(list[dict[str, str]]):
        def __iter__(self) -> Any:
            read.append(ranks().process_index)
            return super().__iter__()

    settings = arguments(folder, device, batch=2) | {"max_steps": 4, "gradient_accumulation_steps": 2}
    torch.manual_seed(0)
    made = GRKDTrainer(
        model=tiny(1, 2, vocabulary=40),
        teacher_model=tiny(2, 3, vocabulary=40),
        args=GRKDConfig(**settings, method="kd"),
        train_dataset=Records({"prompt": f"w{n} w{n + 1}", "completion": f"w{n % 5} " * (1 + n % 3)} for n in range(9)),
        processing_class=word_tokenizer(),
        teacher_processing_class=word_tokenizer(),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False),
    )
    made.train()
    made.save_model(str(folder / "adapter"))
    ranks().wait_for_everyone()
    return {"weights": load_file(folder / "adapter" / "adapter_model.safetensors"), "read": gathered(read, "records")}


def held_out(folder: Path, device: str) -> dict[str, Any]:
    """GRKDTrainer with rows without padding, several passes per micro-batch and accumulation; what it measured of
    held-out records, and what it left for the report."""
    from grkd.training import GRKDConfig, GRKDTrainer
    from tests.conftest import word_tokenizer

    settings = arguments(folder, device, batch=4) | {"max_steps": 3, "gradient_accumulation_steps": 2}
    measured = ["top1_agreement", "forward_kl_nats"]
    records = [
        {"prompt": " ".join(f"w{(n + k) % 30}" for k in range(1 + n % 4)), "completion": f"w{n % 5} " * (1 + n % 6)}
        for n in range(11)
    ]
    made = GRKDTrainer(
        model=tiny(1, 2, vocabulary=40),
        teacher_model=tiny(2, 3, vocabulary=40),
        args=GRKDConfig(**settings, tokens_per_batch=12, eval_metrics=measured, report_prompts=3, max_new_tokens=4),
        train_dataset=records,
        eval_dataset=records[:3],
        processing_class=word_tokenizer(),
        teacher_processing_class=word_tokenizer(),
    )
    made.train()
    shown = folder / "evaluate" / "samples.json"
    found = made.evaluate()
    return {
        "weights": state_of(made),
        "metrics": {
            name: value for name, value in found.items() if "loss" in name or name.split("eval_")[-1] in measured
        },
        "samples": json.loads(shown.read_text()) if ranks().is_main_process else [],
    }


WORK: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "steps": steps,
    "fused": fused,
    "packed": packed,
    "logged": logged,
    "compiled": compiled,
    "on_policy": on_policy,
    "resumed": resumed,
    "lora": lora,
    "held_out": held_out,
    "reference": reference,
    "sharded_teacher": sharded_teacher,
    "asked_unevenly": asked_unevenly,
    "agreement": agreement,
    "by_vllm": by_vllm,
}


def work(device: str, folder: Path, words: Sequence[str]) -> None:
    """The named pieces of work, by the way named before them."""
    ranks()
    way = "ddp"
    for name in words:
        if name in ("ddp", "fsdp"):
            way = name
            use(way)
            continue
        found = WORK[name](folder / way / name, device)
        if ranks().is_main_process:
            torch.save(found, folder / f"{way}-{name}.pt")


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
