"""How each implementation of benchmarks.full_size is run: milliseconds of every step, and the last loss."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from benchmarks._full_size_cases import Case
from benchmarks._full_size_models import text
from grkd import objectives
from grkd.data.language import Group, Item, collate
from grkd.models.attention import honour_softcap
from grkd.teacher.signal import HiddenCache, TeacherHead
from grkd.training import DistillationTrainer, LanguageRows
from grkd.training.compiled_layers import CompiledLayers
from grkd.training.memory import KeptLayers

RATE = 1e-6


class Clock(TrainerCallback):
    """Milliseconds between the ends of steps, on the device's own clock where it has one."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self.marks: list[Any] = []

    def mark(self) -> None:
        if not self.on_gpu:
            self.marks.append(time.perf_counter() * 1000)
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append(event)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.marks:
            self.mark()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.mark()

    def milliseconds(self) -> list[float]:
        if not self.on_gpu:
            return [after - before for before, after in zip(self.marks, self.marks[1:], strict=False)]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) for before, after in zip(self.marks, self.marks[1:], strict=False)]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One case, ready to run. folder: for what trainers write."""

    case: Case
    student: Any
    teacher: Any
    items: Sequence[Item]
    tokenizer: Callable[[], Any]
    steps: int
    device: torch.device
    folder: Path
    watch: TrainerCallback | None = None  # beside the clock

    def groups(self) -> list[Group]:
        """The items, `per_prompt` to a group, scored in their order."""
        size = self.case.per_prompt
        parts = [tuple(self.items[at : at + size]) for at in range(0, len(self.items), size)]
        return [
            Group(
                id=str(number),
                items=part,
                teacher_scores=tuple(float(place) for place in range(len(part))),
                sources=("student",) * len(part),
                reference_log_probs=tuple(-10.0 - 0.1 * place for place in range(len(part))),
            )
            for number, part in enumerate(parts)
        ]

    def arguments(self, kind: Any = TrainingArguments, **more: Any) -> Any:
        """Arguments of a trainer: AdamW at a constant rate, without logs and checkpoints."""
        known = {each.name for each in fields(kind)}
        named = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
        settings: dict[str, Any] = {
            "output_dir": str(self.folder / "run"),
            "per_device_train_batch_size": self.case.sequences // self.case.per_prompt,
            "max_steps": self.steps,
            "learning_rate": RATE,
            "lr_scheduler_type": "constant",
            "bf16": self.case.masters and self.device.type == "cuda",
            "optim": "adamw_torch_fused",
            named: self.case.recompute,
            "logging_steps": self.steps,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": self.device.type == "cpu",
            "dataloader_pin_memory": self.device.type == "cuda",
        }
        if self.case.recompute:
            settings[f"{named}_kwargs"] = {"use_reentrant": False}
        return kind(**{**settings, **more})


def grkd(work: Work) -> dict[str, Any]:
    """DistillationTrainer as `grkd run` calls it."""
    case = work.case
    for side in (work.student, work.teacher):
        honour_softcap(side)  # as all that grkd loads
    objective = objectives.load(case.method, **case.options)
    signal: dict[str, Any] = {}
    if case.cached:
        signal = {"cache": _cache(work), "head": TeacherHead.of(work.teacher)}
    elif "row" in objective.levels and objective.needs_teacher:
        signal = {"teacher": work.teacher}
    rows = LanguageRows(
        pad_token_id=0,
        vocabulary=work.student.config.vocab_size,
        trains_on=objective.trains_on,
        tokens_per_batch=10**6 if case.packed else None,
        share_prompts=case.shares and case.per_prompt > 1,
        **signal,
    )
    trainer = DistillationTrainer(
        work.student,
        # As `grkd run` sets them: the host looks at no loss in between, and waits for no copy.
        work.arguments(logging_nan_inf_filter=False, accelerator_config={"non_blocking": work.device.type == "cuda"}),
        objective=objective,
        rows=rows,
        compile_layers=case.compiled,
        float32_masters=case.copies,
        train_dataset=work.groups(),
    )
    if case.kept_layers:
        trainer.add_callback(KeptLayers(work.student.config.num_hidden_layers - case.kept_layers))
    found = _trained(trainer, work)
    attention = work.student.config._attn_implementation
    return {
        **found,
        "attention": attention,
        "compiled": trainer._compiled.on,
        "packed": rows.tokens_per_batch is not None,
        "shared": rows.shares_prompts,
    }


def _cache(work: Work) -> HiddenCache:
    folder = work.folder / "cache"
    folder.mkdir(parents=True)
    cache = HiddenCache(folder, dtype="bfloat16")
    width = work.teacher.config.hidden_size
    for item in work.items:
        cache.write_shard({item.id: torch.randn(len(item.response_ids), width, dtype=torch.bfloat16)})
    return cache


def trl(work: Work) -> dict[str, Any]:
    """TRL's DistillationTrainer at forward KL; in place of sampling it is handed the responses."""
    from datasets import Dataset
    from trl import DistillationConfig
    from trl import DistillationTrainer as Peer

    known = {tuple(item.prompt_ids[:16]): item.response_ids for item in work.items}

    class WithoutSampling(Peer):  # type: ignore[misc]
        def _generate_single_turn(self, prompt_ids: Any, *arguments: Any, **options: Any) -> Any:
            return [list(known[tuple(ids[:16])]) for ids in prompt_ids]

    trainer = WithoutSampling(
        model=work.student,
        teacher_model=work.teacher,
        args=work.arguments(DistillationConfig, beta=0.0, max_completion_length=4096),
        train_dataset=Dataset.from_list([{"prompt": text(item.prompt_ids)} for item in work.items]),
        processing_class=work.tokenizer(),
    )
    return _trained(trainer, work)


def trl_gkd(work: Work) -> dict[str, Any]:
    """TRL's experimental GKDTrainer on the data's responses, forward KL, two sequences at a time."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    def collated(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = collate([Item("", row["prompt_ids"], row["response_ids"]) for row in rows], pad_token_id=0)
        labels = torch.full_like(batch["input_ids"], -100)
        labels[:, -batch["response_ids"].shape[1] :][batch["response_mask"]] = batch["response_ids"][
            batch["response_mask"]
        ]
        found = {name: batch[name] for name in ("input_ids", "attention_mask")}
        prompts = batch["input_ids"][:, : -batch["response_ids"].shape[1]]
        return found | {"labels": labels, "prompts": prompts, "prompt_attention_mask": torch.ones_like(prompts)}

    micro = min(2, work.case.sequences)
    accumulated = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": work.case.sequences // micro}
    trainer = GKDTrainer(
        model=work.student,
        teacher_model=work.teacher,
        args=work.arguments(GKDConfig, beta=0.0, lmbda=0.0, temperature=1.0, max_length=4096, **accumulated),
        data_collator=collated,
        train_dataset=Dataset.from_list(
            [{"prompt_ids": item.prompt_ids, "response_ids": item.response_ids} for item in work.items]
        ),
        processing_class=work.tokenizer(),
    )
    return _trained(trainer, work)


def trl_dpo(work: Work) -> dict[str, Any]:
    """TRL's DPOTrainer; the reference's log-probabilities are computed before training, as ours are."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = [
        {"prompt": text(group.items[0].prompt_ids), "chosen": " " + text(group.items[1].response_ids[:-1]),
         "rejected": " " + text(group.items[0].response_ids[:-1])}
        for group in work.groups()
    ]  # fmt: skip
    trainer = DPOTrainer(
        model=work.student,
        args=work.arguments(DPOConfig, max_length=4096, precompute_ref_log_probs=True),
        train_dataset=Dataset.from_list(pairs),
        processing_class=work.tokenizer(),
    )
    return _trained(trainer, work)


def loop(work: Work) -> dict[str, Any]:
    """A loop written by hand: logits of the response positions, forward KL in float32; compiled: layers and loss."""
    student, teacher, size = work.student, work.teacher, work.case.sequences
    if work.case.recompute:
        student.gradient_checkpointing_enable({"use_reentrant": False})
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0, fused=True)

    def divergence(ours: Tensor, theirs: Tensor, mask: Tensor) -> Tensor:
        ours, theirs = ours.float().log_softmax(-1), theirs.float().log_softmax(-1)
        return torch.where(mask, (theirs.exp() * (theirs - ours)).sum(-1), 0.0).sum() / mask.sum()

    compiled = CompiledLayers([student, teacher], wanted=work.case.compiled, device=work.device)
    compiled.begin(0.0, lambda: None)
    loss_of = torch.compile(divergence) if work.case.compiled else divergence
    clock, loss = Clock(work.device), torch.zeros(())
    clock.mark()
    for step in range(work.steps):
        batch = collate(work.items[step * size : (step + 1) * size], pad_token_id=0)
        batch = {name: value.to(work.device) for name, value in batch.items()}
        columns = batch["response_ids"].shape[1]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        options = {"use_cache": False, "logits_to_keep": columns + 1}
        autocast = torch.autocast(work.device.type, dtype=torch.bfloat16) if work.case.masters else nullcontext()
        with autocast:
            with torch.no_grad():
                theirs = teacher(**inputs, **options).logits[:, :-1]
            loss = loss_of(student(**inputs, **options).logits[:, :-1], theirs, batch["response_mask"])
        del theirs
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.mark()
    compiled.off()
    return {"step_ms": clock.milliseconds(), "loss": float(loss)}


def _trained(trainer: Any, work: Work) -> dict[str, Any]:
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    clock = Clock(work.device)
    trainer.add_callback(clock)
    if work.watch is not None:
        trainer.add_callback(work.watch)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {"step_ms": clock.milliseconds(), "loss": losses[-1] if losses else None}


os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
RUNS: dict[str, Callable[[Work], dict[str, Any]]] = {
    "grkd": grkd,
    "trl": trl,
    "trl_gkd": trl_gkd,
    "trl_dpo": trl_dpo,
    "loop": loop,
}
