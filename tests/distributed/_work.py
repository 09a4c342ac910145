"""Trainings of tiny models as every process of a launch does them, by name; a process alone gives the oracle.

    python tests/distributed/_work.py DEVICE FOLDER ddp|fsdp NAME [NAME ...] [ddp|fsdp NAME ...]

What a training made goes to FOLDER/WAY-NAME.pt, written by the main process. After `fsdp` students are sharded.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from grkd import objectives
from grkd.data.language import Item
from grkd.models.shard import in_turns, is_sharded, shard
from grkd.ranks import from_main, gathered, ranks
from grkd.teacher import rank_build
from grkd.teacher.local import LocalTeacher
from grkd.teacher.rank_cache import Origin, RankCache
from grkd.teacher.rank_codec import RankCodec
from grkd.training import DistillationTrainer, LanguageRows, WholeCheckpoints, last_whole_checkpoint
from grkd.training.compiled_layers import CompiledLayers
from grkd.training.groups_of_responses import group_of
from grkd.training.on_policy import on_policy_sampler
from tests.distributed._agreement import agreement
from tests.distributed._ways import use
from tests.kernels._sharded import PAD, VOCABULARY, items, tiny

STEPS = 20


def prompts() -> list[Item]:
    """Nine: two ranks with batches of two have a last step of one example in all."""
    made = items()
    return [*made, *(Item(f"more{item.id}", item.prompt_ids[::-1], item.response_ids) for item in made[:1])]


def arguments(folder: Path, device: str, *, batch: int) -> dict[str, Any]:
    """Settings of a trainer whose processes take `batch` examples together."""
    each = batch // ranks().num_processes
    return {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": each,
        "per_device_eval_batch_size": each,
        "logging_steps": float(STEPS),  # GRKDConfig says float, and tests check types
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": False,
        "seed": 0,
    }


def trainer(folder: Path, device: str, method: str, *, batch: int, **settings: Any) -> DistillationTrainer:
    """A trainer in float32."""
    objective = objectives.load(method)
    sampler = on_policy_sampler(None, max_new_tokens=6, stop_ids=[PAD], pad_token_id=PAD, vocabulary=VOCABULARY)
    return DistillationTrainer(
        tiny(1, 2),
        TrainingArguments(**(arguments(folder, device, batch=batch) | settings)),
        objective=objective,
        rows=LanguageRows(
            pad_token_id=PAD,
            vocabulary=VOCABULARY,
            teacher=tiny(2, 3),
            sampler=sampler if objective.on_policy else None,
        ),
        train_dataset=prompts(),
        eval_dataset=prompts()[:5],
    )


def state_of(made: DistillationTrainer) -> dict[str, Tensor]:
    """The whole student's weights, on the main process."""
    whole = made.whole_student()
    return {} if whole is None else {name: value.detach().cpu() for name, value in whole.state_dict().items()}


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


def logged(folder: Path, device: str) -> dict[str, Any]:
    """A line for every step of an epoch and a half: the second process has no example of its own in the third step."""
    compute: list[float] = []

    class Decision(CompiledLayers):
        def begin(self, flops: float, warm_up: Callable[[], object]) -> None:
            compute.append(flops)

    made = trainer(folder, device, "grkd", batch=4, max_steps=4, logging_steps=1.0)
    made._compiled, made._begun = Decision([], wanted=None, device=torch.device(device)), False
    made.train()
    names = ("loss", "rows_seen", "terms/group_relative", "terms/soft_target")
    lines = [{name: line[name] for name in names if name in line} for line in made.state.log_history if "loss" in line]
    return {"weights": state_of(made), "lines": lines, "compute": gathered(compute, "compute")}


def on_policy(folder: Path, device: str) -> dict[str, Any]:
    """Steps on responses that the student samples before each."""
    made = trainer(folder, device, "gkd", batch=4, max_steps=4)
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


def reference(folder: Path, device: str) -> dict[str, Any]:
    """dpo with LoRA on sampled groups, ranked by a sharded teacher: the base model is the reference, also of a set of
    three prompts that comes after training, of which the processes have two and one."""
    from peft import LoraConfig

    from grkd.training import GRKDConfig, GRKDTrainer
    from tests.conftest import word_tokenizer

    settings = arguments(folder, device, batch=2) | {"max_steps": 2, "max_new_tokens": 4, "num_generations": 3}
    torch.manual_seed(0)
    made = GRKDTrainer(
        model=tiny(1, 2, vocabulary=40),
        teacher_model=shard(tiny(2, 3, vocabulary=40), torch.device(device)),
        args=GRKDConfig(**settings, method="dpo"),
        rankers="log_prob",
        train_dataset=[{"prompt": f"w{n} w{n + 1}"} for n in range(3)],
        processing_class=word_tokenizer(),
        teacher_processing_class=word_tokenizer(),
        peft_config=LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False),
    )
    made.train()
    pairs = [{"prompt": f"w{n}", "chosen": f"w{n} w{n + 1}", "rejected": f"w{n + 2}"} for n in range(3)]
    found = made.evaluate(pairs)["eval_loss"]
    return {"weights": state_of(made), "eval_loss": found}


def sharded_teacher(folder: Path, device: str) -> dict[str, Any]:
    """A teacher spread over the processes gives the logits of a whole one, also when they ask it unequally often."""
    place, found = torch.device(device), {}
    state = ranks()
    asking = [state.process_index] if state.num_processes > 1 else [0, 1]  # alone: what both would ask
    for kind in ("sharded", "offloaded"):
        model: Any = shard(tiny(2, 3), place, offload=kind == "offloaded" and state.num_processes > 1)
        assert is_sharded(model) == (state.num_processes > 1)
        teacher = LocalTeacher(model, None, vocabulary=VOCABULARY, batch_size=1)
        answers = []
        with in_turns(model), torch.no_grad():
            for number in asking:
                mine = prompts()[: 2 + 3 * number]
                means, hidden = teacher.scored(mine, keep={mine[0].id})
                ids = torch.tensor([mine[0].prompt_ids], device=place)
                text = model.generate(ids, max_new_tokens=2 + 4 * number, do_sample=False, eos_token_id=None)
                answers.append({"means": means, "hidden": hidden[mine[0].id].cpu(), "text": text.tolist()})
        with in_turns(model):
            pass  # no process asks anything
        found[kind] = gathered(answers, kind)
    return found


def asked_unevenly(folder: Path, device: str) -> dict[str, Any]:
    """A sharded teacher whose processes have different numbers of responses to write, to put in order or to keep."""
    from grkd.training import GRKDConfig, GRKDTrainer
    from tests.conftest import word_tokenizer

    def made(name: str, **settings: Any) -> GRKDTrainer:
        common = arguments(folder / name, device, batch=2) | {"max_steps": 1, "max_new_tokens": 4}
        asks: dict[str, Any] = {} if name == "written" else {"rankers": "log_prob"}
        first: Any = shard(tiny(2, 3, vocabulary=40), torch.device(device))
        if name == "voted":
            second = shard(tiny(4, 2, vocabulary=40), torch.device(device))
            first = [{"model": first, "tokenizer": word_tokenizer()}, {"model": second, "tokenizer": word_tokenizer()}]
        return GRKDTrainer(
            model=tiny(1, 2, vocabulary=40),
            teacher_model=first,
            args=GRKDConfig(**common, **settings),
            train_dataset=[{"prompt": f"w{n} w{n + 1}"} for n in range(5)],
            eval_dataset=[{"prompt": f"w{n} w{n + 2}"} for n in range(5)],
            processing_class=word_tokenizer(),
            teacher_processing_class=None if name == "voted" else word_tokenizer(),
            **asks,
        )

    written = made("written", method="seqkd", sampling_batch_size=1)
    ranked = made("ranked", method="grkd", method_options={"preset": "responses"}, num_generations=2)
    voted = made("voted", method="grkd", method_options={"preset": "responses"}, num_generations=2)
    with mock.patch.object(rank_build, "_RESPONSES_PER_SHARD", 2):
        groups = [group_of(item) for item in prompts()[:5]]
        codec = RankCodec(vocabulary=VOCABULARY, entries=5, choose="top", log_probs=True)
        teacher = shard(tiny(2, 3), torch.device(device))
        origin = Origin(teacher="t", weights="w", vocabulary="v", template="c", prompts="p")
        from_main(lambda: RankCache.begun(folder / "cache", codec, origin) and None)
        rank_build.fill(RankCache.begun(folder / "cache", codec, origin), teacher, groups, batch_size=1)
    kept = RankCache(folder / "cache", writing=True)
    return {
        "weights": {},
        "written": [group.items[0].response_ids for group in written.train_dataset],
        "ranked": [group.teacher_scores for group in ranked.eval_dataset],
        "voted": [group.votes for group in voted.eval_dataset],
        "kept": [codec.decode(kept[group.items[0]]).ids.tolist() for group in groups],
    }


WORK: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "steps": steps,
    "fused": fused,
    "logged": logged,
    "on_policy": on_policy,
    "resumed": resumed,
    "lora": lora,
    "reference": reference,
    "sharded_teacher": sharded_teacher,
    "asked_unevenly": asked_unevenly,
    "agreement": agreement,
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
