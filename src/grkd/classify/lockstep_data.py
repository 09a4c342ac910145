"""What the students of a comparison share: the data as tensors, the teacher and what it says of them."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from grkd import objectives
from grkd.classify import stages as classifier
from grkd.classify.data import Classifier, make_classifier
from grkd.classify.stages import OF_STUDENTS
from grkd.data.classification import ClassificationData
from grkd.data.known_sets import KnownData
from grkd.data.text_copies import with_words_left_out
from grkd.errors import UserError
from grkd.files import digest, whole_file, write_json
from grkd.models.networks import build, is_transformers, scores
from grkd.recipe import ClassifierModel, ClassifierRecipe, Training, to_plain
from grkd.run.device import device
from grkd.run.folder import RunFolder, identity
from grkd.training.lockstep.batches import DeviceExamples, as_float
from grkd.training.lockstep.head import with_wide_head
from grkd.training.lockstep.loop import train_lockstep
from grkd.training.lockstep.student import Job, Plan


class Comparison:
    """The shared stages of a comparison, in its folder and the teacher's; a process opens them by the recipe alone."""

    def __init__(self, recipe: ClassifierRecipe, run: RunFolder) -> None:
        self.recipe, self.run = recipe, run
        self.device = device(recipe.device)
        self.shared = classifier.ClassifierRun(recipe, run)
        folder = recipe.lockstep.teachers
        where = run.path / "teacher" if folder is None else Path(folder).expanduser() / digest(self._taught())[:16]
        self.teacher_run = RunFolder(where)

    @property
    def live(self) -> bool:
        """Whether the teacher sees every batch as it is augmented; else its scores are known before."""
        return self.recipe.lockstep.augment

    @property
    def bf16(self) -> bool:
        return self.device.type == "cuda"

    def keys(self) -> dict[str, str]:
        """What the students' inputs and the teacher were made from."""
        copies = {"copies": self.run.key("copies")} if self.recipe.data.copies else {}
        return {"tensors": self.run.key("tensors"), "score": self.teacher_run.key("score"), **copies}

    def plan(self, training: Training, *, data_seed: int, epochs: float | None = None) -> Plan:
        """A recipe's training section as a lock-step plan; epochs: in place of its own length."""
        lockstep = self.recipe.lockstep
        return Plan(
            epochs=training.epochs if epochs is None else epochs,
            total_steps=training.steps if epochs is None else None,
            batch_size=training.batch_size,
            data_seed=data_seed,
            optimizer=lockstep.optimizer,
            momentum=lockstep.momentum,
            weight_decay=training.weight_decay,
            schedule=training.schedule,
            warmup=training.warmup,
            max_grad_norm=training.max_grad_norm,
            augment=lockstep.augment,
            bf16=self.bf16,
        )

    def prepare(self) -> None:
        """Reads the data; keeps the students' view of it as tensors, and who looks like whom."""
        if self.live and is_transformers(self.recipe.teacher.model):
            raise UserError("lockstep.augment: needs a built-in network or a factory as the teacher")
        classifier.prepare(self.shared)
        data = {name: value for name, value in identity(self.recipe.data).items() if name not in OF_STUDENTS}
        inputs = {"data": data, "student": self.recipe.student.model, "seed": self.recipe.seeds[0]}
        self.run.stage("tensors", inputs, self._keep_tensors)

    def teach(self) -> None:
        """The teacher (trained in the same way as the students where it is a plain network), and its scores."""
        with self._alone():
            spec = self.recipe.teacher
            if is_transformers(spec.model):
                recipe = dataclasses.replace(self.recipe, data=self._teacher_data())
                shared = classifier.ClassifierRun(recipe, self.teacher_run)
                classifier.prepare(shared)
                classifier.teach(shared)
            else:
                self.teacher_run.stage("teach", self._taught(), self._train_teacher)
            inputs = {"teach": self.teacher_run.key("teach"), "device": self.device.type}
            self.teacher_run.stage("score", inputs, self._score)
        data = self.recipe.data
        if data.copies:
            drawn = [data.copies, data.word_dropout, self.recipe.seeds[0]]
            made = {"drawn": drawn, "tensors": self.run.key("tensors"), "score": self.teacher_run.key("score")}
            self.run.stage("copies", made, self._keep_copies)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """inputs, labels, heldout_inputs, heldout_labels; votes and outside_inputs where there are; on the device."""
        path = self.run.path / "tensors" / "tensors.safetensors"
        return {name: value.to(self.device) for name, value in load_file(path).items()}

    @cached_property
    def said(self) -> dict[str, Tensor]:
        """The teacher's scores ("train", "heldout") and features ("train_features"), on the device."""
        path = self.teacher_run.path / "score" / "scores.safetensors"
        return {name: value.to(self.device) for name, value in load_file(path).items()}

    @cached_property
    def all_texts(self) -> dict[str, Tensor]:
        """The training examples and behind them their copies, if any: inputs, and what the teacher said, as in `said`.

        Copy c of example n stands at (c + 1) * examples + n.
        """
        found = {"inputs": self.tensors["inputs"], **({} if self.live else self.said)}
        if self.recipe.data.copies:
            copies = load_file(self.run.path / "copies" / "copies.safetensors")
            found = {name: torch.cat([found[name], value.to(self.device)]) for name, value in copies.items()}
        return found

    def examples(self, kept: Tensor | None = None) -> DeviceExamples:
        """Training examples, or those at the positions given, with their copies and what the teacher said."""
        labels, times = self.tensors["labels"], 1 + self.recipe.data.copies
        if kept is None:
            rows: Tensor | slice = slice(None)
        else:  # copies of what is held back are held back, too
            rows = torch.cat([kept.to(self.device) + copy * len(labels) for copy in range(times)])
        said = {name: self.all_texts[name][rows] for name in ("train", "train_features") if name in self.all_texts}
        return DeviceExamples(
            inputs=self.all_texts["inputs"][rows],
            labels=labels.repeat(times)[rows],
            teacher_scores=said.get("train"),
            teacher_features=said.get("train_features"),
        )

    def student(self, seed: int) -> nn.Module:
        """A student before training, as the data's shape asks for it."""
        return self._network(self.recipe.student, seed)

    @cached_property
    def live_teacher(self) -> nn.Module | None:
        """The trained teacher, where it is asked in every step."""
        if not self.live:
            return None
        module = self._network(self.recipe.teacher, self.recipe.seeds[0])
        load_model(module, self.teacher_run.path / "teach" / "model" / "model.safetensors")
        return module

    def _network(self, spec: ClassifierModel, seed: int) -> nn.Module:
        shape = tuple(self.tensors["inputs"].shape[1:])
        return build(spec.model, input_shape=shape, classes=self.classes, options=spec.options, seed=seed)

    @property
    def classes(self) -> int:
        return int(self.said["train"].shape[-1])

    def _keep_tensors(self, work: Path) -> None:
        data = self.shared.data
        outside = list(getattr(data, "outside_inputs", None) or [])
        student = self._view(self.recipe.student, outside)
        if not isinstance(student.train_inputs, Tensor) or not isinstance(student.heldout_inputs, Tensor):
            name = self.recipe.student.model
            raise UserError(f"student: {name}: grkd compare trains built-in networks and factories, on data in memory")
        if self.live and student.train_inputs.ndim != 4:
            raise UserError("lockstep.augment: only images can be cropped and flipped; leave it out")
        if self.recipe.data.copies and data.kind != "text":
            raise UserError("data.copies: only texts have words that can be left out; leave it out")
        heldout = student.heldout_inputs
        kept = {
            "inputs": student.train_inputs,
            "labels": data.train_labels,
            "heldout_inputs": heldout[: len(data.heldout_labels)],
            "heldout_labels": data.heldout_labels,
        }
        if outside:
            kept["outside_inputs"] = heldout[len(data.heldout_labels) :]
        if isinstance(data, KnownData) and data.heldout_votes is not None:
            kept["votes"] = data.heldout_votes
        with whole_file(work / "tensors.safetensors") as aside:
            save_file({name: value.contiguous() for name, value in kept.items()}, aside)
        write_json(work / "groups.json", getattr(data, "class_groups", {}))

    def _keep_copies(self, work: Path) -> None:
        data, known = self.recipe.data, len(self.shared.data.heldout_labels)
        texts = [str(text) for text in self.shared.data.train_inputs]
        copies = with_words_left_out(texts, copies=data.copies, dropout=data.word_dropout, seed=self.recipe.seeds[0])
        inputs = self._view(self.recipe.student, copies).heldout_inputs[known:]
        assert isinstance(inputs, Tensor)  # else `tensors` had been refused
        teacher = self._teacher(copies)
        logits, features = self._asked(teacher, teacher.heldout_inputs[known:], "copies")
        found = {"inputs": inputs, "train": logits} | ({} if features is None else {"train_features": features})
        with whole_file(work / "copies.safetensors") as aside:
            save_file({name: value.contiguous() for name, value in found.items()}, aside)

    def _teacher(self, outside: Sequence[Any]) -> Classifier:
        """As it was trained, with the data as it takes them."""
        teacher = self._view(self.recipe.teacher, outside)
        load_model(teacher.module, self.teacher_run.path / "teach" / "model" / "model.safetensors")
        return teacher

    def _view(self, spec: ClassifierModel, outside: Sequence[Any], *, needs_head: bool = False) -> Classifier:
        """A model with the data as it takes them; inputs of no class stand behind the held-out ones."""
        data: ClassificationData = self.shared.data
        if outside:
            data = dataclasses.replace(data, heldout_inputs=[*data.heldout_inputs, *outside])
        return make_classifier(spec, data, self.recipe, seed=self.recipe.seeds[0], needs_head=needs_head)

    def _train_teacher(self, work: Path) -> None:
        spec, seed = self.recipe.teacher, self.recipe.seeds[0]
        teacher = self._view(spec, ())
        if not isinstance(teacher.train_inputs, Tensor):
            raise UserError("teacher: its inputs do not fit into memory; grkd compare holds the data on the device")
        if spec.training is not None:
            refuse(spec.training, "teacher.training")
            labels = getattr(self.shared.data, "teacher_labels", None)
            labels = self.shared.data.train_labels if labels is None else labels
            examples = DeviceExamples(inputs=teacher.train_inputs.to(self.device), labels=labels.to(self.device))
            rate = spec.training.learning_rate
            job = Job(name="teacher", objective=objectives.load("ce"), seed=seed, learning_rate=rate)
            plan = self.plan(spec.training, data_seed=seed)
            found = train_lockstep([job], examples, build=lambda _: teacher.module, plan=plan)["teacher"]
            if found.failure is not None:
                raise RuntimeError(f"the teacher's training failed: {found.failure}")
            write_json(work / "training.json", {"steps": found.steps, "seconds": found.seconds})
        (work / "model").mkdir(exist_ok=True)
        save_model(teacher.module.cpu(), str(work / "model" / "model.safetensors"))

    def _score(self, work: Path) -> None:
        outside = list(getattr(self.shared.data, "outside_inputs", None) or [])
        teacher = self._teacher(outside)
        train, features = self._asked(teacher, teacher.train_inputs, "train examples")
        heldout, _ = self._asked(teacher, teacher.heldout_inputs, "heldout examples")
        found = {"train": train, "heldout": heldout}
        if features is not None:
            found["train_features"] = features
        if outside:
            known = len(self.shared.data.heldout_labels)
            found["outside"], found["heldout"] = heldout[known:].clone(), heldout[:known].clone()
        with whole_file(work / "scores.safetensors") as aside:
            save_file(found, aside)

    @torch.no_grad()
    def _asked(self, teacher: Classifier, inputs: Tensor | Sequence[Any], what: str) -> tuple[Tensor, Tensor | None]:
        """Logits, all finite, and what the last layer reads (None where that is unknown), float32 on the CPU."""
        module, head = with_wide_head(teacher.module.to(self.device).eval())
        size, logits, features = self.recipe.evaluation.batch_size, [], []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            batch = as_float(part) if isinstance(part, Tensor) else teacher.prepare(part)
            moved = batch.to(self.device) if isinstance(batch, Tensor) else _moved(batch, self.device)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                logits.append(scores(module, moved).float().cpu())
            if head is not None and head.read is not None:
                features.append(head.read.float().cpu())
        found = torch.cat(logits)
        if not bool(found.isfinite().all()):
            raise UserError(f"teacher: some of its scores of the {what} are not finite")
        return found, torch.cat(features) if features else None

    def _teacher_data(self) -> Any:
        data = self.recipe.data
        return dataclasses.replace(data, labels=data.teacher_labels or data.labels, teacher_labels=None)

    def _taught(self) -> dict[str, Any]:
        """What the teacher depends on."""
        data, lockstep = identity(self._teacher_data()), to_plain(self.recipe.lockstep)
        return {
            "data": {name: value for name, value in data.items() if name not in OF_STUDENTS},
            "teacher": identity(self.recipe.teacher),
            "lockstep": {name: lockstep[name] for name in ("optimizer", "momentum", "augment")},
            "seed": self.recipe.seeds[0],
        }

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Comparisons that share a teacher make it once: the others wait."""
        self.teacher_run.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.teacher_run.path / ".teach.lock"):
            yield


def refuse(training: Training, where: str) -> None:
    """Raises UserError for settings of the Trainer's that lock-step training does not have."""
    plain = Training()
    without = ("gradient_accumulation", "gradient_checkpointing", "steps_per_generation", "fused_head", "report_to")
    for name in (*without, "extra"):
        if getattr(training, name) != getattr(plain, name):
            raise UserError(f"{where}.{name}: grkd compare trains classifiers without it; leave it out")


def _moved(batch: dict[str, Tensor], where: torch.device) -> dict[str, Tensor]:
    return {name: value.to(where) for name, value in batch.items()}
