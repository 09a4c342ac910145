"""What the stages of a classifier share: the recipe, its folders and device, the data, the split, models and keys."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from grkd.classify.data import Classifier, load_data, make_classifier
from grkd.classify.engine import in_lockstep
from grkd.compare.task import TaskContext
from grkd.data.classification import ClassificationData
from grkd.data.splits import stratified_split
from grkd.errors import UserError, nearest
from grkd.files import digest, read_json
from grkd.recipe import ClassifierModel, ClassifierRecipe, RankedLabels, Training, to_plain
from grkd.run.folder import RunFolder, identity

NOT_FINITE = "its scores are not finite"
# Settings of the data section that concern students alone: a teacher is the same without them.
OF_STUDENTS = ("student_limit", "copies", "word_dropout")
# Settings of a served teacher that concern how it is asked, not what: its answers are the same.
OF_REQUESTS = ("key_env", "concurrency", "timeout_seconds", "max_requests")


class ClassifierContext(TaskContext):
    """Everything that a stage needs; another process opens it by the recipe alone."""

    recipe: ClassifierRecipe
    no_value = NOT_FINITE
    no_effect = (*TaskContext.no_effect, "tokens_per_batch", "compile", "gradient_checkpointing")

    def __init__(self, recipe: ClassifierRecipe, run: RunFolder) -> None:
        super().__init__(recipe, run)
        shared = recipe.lockstep.teachers
        # Trained teachers that recipes share lie in a folder of their own, else in the run's.
        self.teacher_run = (
            run if shared is None else RunFolder(Path(shared).expanduser() / digest(self.teacher_inputs)[:16])
        )

    @property
    def metric(self) -> str:
        search = self.recipe.search
        return "accuracy" if search is None or search.metric is None else search.metric

    @property
    def live(self) -> bool:
        """Whether the teacher scores every batch as it is augmented; else its scores are computed once."""
        return self.recipe.lockstep.augment

    @property
    def bf16(self) -> bool:
        return self.device.type == "cuda"

    @cached_property
    def data(self) -> ClassificationData:
        """The labelled examples, read once per process."""
        return load_data(self.recipe.data, seed=self.seed, ranking=getattr(self.recipe.teacher, "ranking", None))

    @cached_property
    def class_groups(self) -> dict[str, list[int]]:
        """Numbers of the classes of evaluation.groups. Raises UserError for an unknown class, or fewer than two."""
        names = self.class_names
        return {name: _numbers(name, given, names) for name, given in self.recipe.evaluation.groups.items()}

    @cached_property
    def class_names(self) -> list[str]:
        kept = self.run.path / "prepare" / "classes.json"
        return self.data.class_names if not kept.exists() or "data" in self.__dict__ else read_json(kept)

    @cached_property
    def labels(self) -> dict[str, Tensor]:
        """labels, heldout_labels, and votes if there are any, as the prepare stage kept them."""
        found: dict[str, Tensor] = load_file(self.run.path / "prepare" / "labels.safetensors")
        return found

    @cached_property
    def teacher_rows(self) -> Tensor | None:
        """Training examples that the teacher is trained on (None: all): those that no search validates on."""
        return self.search_rows[0] if self.holds_out else None

    @property
    def holds_out(self) -> bool:
        """Whether the teacher's training leaves the search's validation part out."""
        return self.recipe.search is not None and self.recipe.teacher.training is not None

    @cached_property
    def search_rows(self) -> tuple[Tensor, Tensor]:
        """(fit, validation): positions in the training part. Trials train on fit and are measured on validation."""
        assert self.recipe.search is not None
        return stratified_split(self.labels["labels"], self.recipe.search.validation_fraction, seed=self.seed)

    @cached_property
    def teacher_inputs(self) -> dict[str, Any]:
        """What the teacher depends on."""
        recipe, data, search = self.recipe, self.recipe.data, self.recipe.search
        if not self.holds_out:  # else it leaves out what the search validates on, which goes by the students' labels
            data = dataclasses.replace(data, labels=data.teacher_labels or data.labels, teacher_labels=None)
        teacher = {name: value for name, value in identity(recipe.teacher).items() if name not in OF_REQUESTS}
        return {
            "data": {name: value for name, value in identity(data).items() if name not in OF_STUDENTS},
            "teacher": teacher,
            "lockstep": self._lockstep,
            "seed": self.seed,
            "held_out_fraction": search.validation_fraction if self.holds_out and search is not None else None,
        }

    @property
    def shared_inputs(self) -> dict[str, Any]:
        return {
            "lockstep": self._lockstep if in_lockstep(self.recipe) else None,
            "student_limit": self.recipe.data.student_limit,
            **self.keys(),
        }

    @property
    def search_inputs(self) -> dict[str, Any]:
        search, lockstep = self.recipe.search, self.recipe.lockstep
        assert search is not None
        lengths = {"search_epochs": lockstep.search_epochs, "prune": lockstep.prune}
        return {"metric": self.metric, "fraction": search.validation_fraction, **lengths}

    @property
    def trial_inputs(self) -> Any:
        return [super().trial_inputs, self.recipe.lockstep.search_epochs]

    @property
    def _lockstep(self) -> dict[str, Any]:
        lockstep = to_plain(self.recipe.lockstep)
        return {name: lockstep[name] for name in ("optimizer", "momentum", "augment")}

    def keys(self) -> dict[str, str]:
        """What the students' inputs and the teacher's scores were made from."""
        copies = {"copies": self.run.key("copies")} if self.recipe.data.copies else {}
        return {"prepare": self.run.key("prepare"), "score": self.teacher_run.key("score"), **copies}

    def view(
        self,
        spec: ClassifierModel | RankedLabels,
        *,
        outside: Sequence[Any] = (),
        needs_head: bool = False,
        seed: int | None = None,
    ) -> Classifier:
        """A model before training, with the data as it takes them; `outside` inputs stand behind the held-out ones."""
        if isinstance(spec, RankedLabels):
            raise UserError("teacher: an order of classes is not a model; name a model to look at")
        data = self.data
        if outside:
            data = dataclasses.replace(data, heldout_inputs=[*data.heldout_inputs, *outside])
        seed = self.seed if seed is None else seed
        return make_classifier(spec, data, self.recipe, seed=seed, needs_head=needs_head)

    def training_at(self, learning_rate: float, *, search: bool) -> Training:
        """The recipe's training section at another learning rate; a trial may be shorter."""
        training, epochs = self.recipe.training, self.recipe.lockstep.search_epochs
        if search and epochs is not None:
            return dataclasses.replace(training, learning_rate=learning_rate, epochs=epochs, steps=None)
        return dataclasses.replace(training, learning_rate=learning_rate)


def _numbers(name: str, classes: Sequence[str], class_names: Sequence[str]) -> list[int]:
    for one in classes:
        if one not in class_names:
            near = nearest(one, class_names)
            hint = f"did you mean {near!r}?" if near else f"there are {', '.join(class_names[:5])}, ..."
            raise UserError(f"evaluation.groups.{name}: no class {one!r} in the data; {hint}")
    if len(set(classes)) < 2:
        raise UserError(f"evaluation.groups.{name}: expected two or more different classes, got {list(classes)}")
    return [list(class_names).index(one) for one in classes]
