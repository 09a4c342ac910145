"""Run by torchrun from the tests of sharded training: one step of a tiny model on every rank, by ways of wrapping.

    torchrun --nproc-per-node=2 tests/kernels/_sharded.py DEVICE FOLDER WAY [WAY ...]

The step is also that of one process: `alone` makes it from the rows of all ranks. Results go to FOLDER/WAY.pt.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from grkd import objectives
from grkd.data.language import Item, captured_hidden, collate
from grkd.kernels import distillation_head, selected_log_probs
from grkd.training import DistillationTrainer, LanguageRows
from tests._forked import on_ranks

# Ways to wrap the student; the trainer's are what `accelerate launch` makes of it, FSDP on GPUs only.
WAYS = ("fsdp", "fsdp, head apart", "ddp", "trainer ddp")
# What `accelerate launch --use_fsdp` sets.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
PAD, VOCABULARY, ITEMS = 3, 30, 8


def tiny(seed: int, layers: int, *, vocabulary: int = VOCABULARY) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.3,
            pad_token_id=PAD,
            eos_token_id=PAD,
            bos_token_id=None,
            use_cache=False,
        )
    )


def items() -> list[Item]:
    """Responses of different lengths, so that a mean of the ranks' means is not the mean over tokens."""
    generator = torch.Generator().manual_seed(5)
    found = []
    for number in range(ITEMS):
        prompt, response = 1 + number % 3, 1 + (number * 5) % 9
        ids = torch.randint(4, VOCABULARY, (prompt + response,), generator=generator).tolist()
        found.append(Item(f"i{number}", ids[:prompt], [*ids[prompt:-1], PAD]))
    return found


def loss_of(student: nn.Module, teacher: nn.Module, part: list[Item], device: str) -> Tensor:
    """Both functions that read an lm_head, on `part` of the items, over the number of tokens of all items."""
    tokens = sum(len(item.response_ids) for item in items())
    batch = {name: value.to(device) for name, value in collate(part, pad_token_id=PAD).items()}
    mask = batch["response_mask"]
    hidden, weight = last_hidden(student, batch)
    with torch.no_grad():
        teacher_hidden, teacher_weight = last_hidden(teacher, batch)
    loss: Tensor = distillation_head(
        hidden[mask], weight, teacher_hidden[mask], teacher_weight, alpha=0.5, group="top", group_size=6, rows=tokens
    )
    chosen = selected_log_probs(hidden[mask], weight, batch["response_ids"][mask], chunk=4)
    return loss - 0.1 * chosen.sum() / tokens


def last_hidden(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Hidden states before each response token and the lm_head's weight, a DTensor where the head is apart."""
    captured = captured_hidden(model, batch)
    if captured is not None:
        return captured[0], captured[1].weight
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    columns = batch["response_ids"].shape[-1]
    assert hasattr(model.lm_head.weight, "full_tensor")
    return model.model(**inputs).last_hidden_state[:, -(columns + 1) : -1], model.lm_head.weight


def whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().cpu()


def gradients(student: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        found[name.removeprefix("module.")] = whole(parameter.grad)
    return found


def alone(device: str) -> dict[str, Any]:
    """Loss and gradients of one process that has all rows."""
    student, teacher = tiny(1, 2).to(device), tiny(2, 3).to(device)
    loss = loss_of(student, teacher, items(), device)
    loss.backward()
    return {"loss": float(loss.detach()), "values": gradients(student)}


def wrapped(way: str, device: str) -> dict[str, Any]:
    """The same with every rank's share of the rows; gradients are averaged over ranks, hence the factor."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    student, teacher = tiny(1, 2).to(device), tiny(2, 3).to(device)
    model: nn.Module = student
    if way == "ddp":
        model = nn.parallel.DistributedDataParallel(student)
    else:
        mesh = init_device_mesh(device, (ranks,))
        for layer in student.model.layers:
            fully_shard(layer, mesh=mesh)
        for module in (student.model, student.lm_head) if way == "fsdp, head apart" else (student,):
            fully_shard(module, mesh=mesh)
    loss = loss_of(model, teacher, items()[rank::ranks], device)
    (loss * ranks).backward()
    total = loss.detach().clone()
    torch.distributed.all_reduce(total)
    return {"loss": float(total), "values": gradients(model)}


def trained(folder: Path, device: str, **settings: Any) -> dict[str, Any]:
    """Loss and weights after one step of DistillationTrainer with the fused head."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=1,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        dataloader_pin_memory=False,
        seed=0,
        **settings,
    )
    made = DistillationTrainer(
        tiny(1, 2),
        arguments,
        objective=objectives.load(
            "grkd", **{"pairs.group": "top", "pairs.group_size": 6}, alpha_shape="constant", alpha_ceiling=0.5
        ),
        rows=LanguageRows(pad_token_id=PAD, vocabulary=VOCABULARY, teacher=tiny(2, 3)),
        fused_head=True,
        train_dataset=items(),
    )
    made.train()
    values = {name.removeprefix("module."): whole(value) for name, value in made.model.named_parameters()}
    return {"loss": made.state.log_history[0]["loss"], "values": values, "wrapper": type(made.model_wrapped).__name__}


def by_torchrun(ways: Sequence[str], device: str, folder: Path) -> None:
    """Start the ranks as a user does. CUDA cannot be used in forks."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", __file__]
    root = Path(__file__).parents[2]
    paths = [str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [*launch, device, str(folder), *ways]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]


def same_step(ways: Sequence[str], device: str, folder: Path) -> None:
    """Two ranks, started here, make the step of one process: loss, and gradients or weights, to float32 rounding."""
    if device == "cpu":
        on_ranks(partial(as_rank, ways, device, folder), folder)
    else:
        by_torchrun(ways, device, folder)
    for way in ways:
        found = torch.load(folder / f"{way}.pt", weights_only=True)
        trainer = way.startswith("trainer")
        expected = trained(folder, device, per_device_train_batch_size=ITEMS) if trainer else alone(device)
        torch.testing.assert_close(found["loss"], expected["loss"], rtol=1e-5, atol=1e-5, msg=way)
        assert found["values"].keys() == expected["values"].keys()
        for name, value in expected["values"].items():
            torch.testing.assert_close(found["values"][name], value, rtol=1e-4, atol=1e-6, msg=f"{way}: {name}")
        if trainer:
            assert found["wrapper"].startswith("FSDP" if way == "trainer fsdp" else "DistributedDataParallel")


def as_rank(ways: Sequence[str], device: str, folder: Path) -> None:
    """What a rank of an initialised process group does; rank 0 writes the results."""
    for way in ways:
        if way.startswith("trainer"):
            ranks = torch.distributed.get_world_size()
            found = trained(folder, device, per_device_train_batch_size=ITEMS // ranks)
        else:
            found = wrapped(way, device)
        if torch.distributed.get_rank() == 0:
            torch.save(found, folder / f"{way}.pt")


def main() -> None:
    device, folder, *ways = sys.argv[1:]
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if "trainer fsdp" in ways:
        os.environ |= FSDP
    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    as_rank(ways, device, Path(folder))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
