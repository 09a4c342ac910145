"""What a task with many small students tells their comparison, and how one of them is trained by itself."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from grkd.compare.student_job import StudentJob, job_at
from grkd.compare.study import Study, study_of
from grkd.files import digest, read_json, write_json
from grkd.recipe import ClassifierRecipe, RankRecipe, to_plain
from grkd.run.device import device
from grkd.run.folder import RunFolder, identity

Metrics = dict[str, dict[str, float | None]]
Model = TypeVar("Model")
# Of the training section: a student has a learning rate of its own, and the rest changes no student.
_NO_EFFECT = (
    *("learning_rate", "log_every", "save_every", "report_to"),
    *("steps_per_generation", "fused_head", "float32_masters"),
)


class TaskContext(ABC):
    """Recipe, run folder and device of a task; what its students depend on, and the searches of its methods."""

    no_effect: ClassVar[tuple[str, ...]] = _NO_EFFECT  # settings of the training section that change no student
    no_value: ClassVar[str]  # why a trial has no value though its training ended well

    def __init__(self, recipe: ClassifierRecipe | RankRecipe, run: RunFolder) -> None:
        self.recipe, self.run = recipe, run
        self.device = device(recipe.device)

    @property
    def seed(self) -> int:
        """Of the data's splits and the search."""
        return self.recipe.seeds[0]

    @property
    @abstractmethod
    def metric(self) -> str:
        """What the search goes by."""

    @property
    @abstractmethod
    def shared_inputs(self) -> dict[str, Any]:
        """What every student depends on beside its job, the student and training sections."""

    @property
    @abstractmethod
    def search_inputs(self) -> dict[str, Any]:
        """What the value of a trial depends on beside its student."""

    @property
    def trial_inputs(self) -> Any:
        """What a trial's stage depends on beside its student."""
        return to_plain(self.recipe)["search"]

    def student_inputs(self, job: StudentJob) -> dict[str, Any]:
        """What a trained student depends on."""
        training = {name: value for name, value in to_plain(self.recipe.training).items() if name not in self.no_effect}
        return {
            "method": job.method_identity,
            "learning_rate": job.learning_rate,
            "seed": job.seed,
            "student": identity(self.recipe.student),
            "training": training,
            **self.shared_inputs,
        }

    def study(self, label: str) -> Study:
        """A method's study in the run folder; the same in every process."""
        method = next(each for each in self.recipe.methods if each.label == label)
        inputs = self.student_inputs(job_at(StudentJob, self.recipe, method, {"learning_rate": 1.0}, 0))
        key = digest({**inputs, "search": self.search_inputs})
        return study_of(self.run.path, self.recipe, method, metric=self.metric, key=key)

    def tell(
        self,
        job: StudentJob,
        metrics: Metrics,
        *,
        failure: str | None = None,
        stopped_after: int | None = None,
        spent: Mapping[str, Any],
    ) -> None:
        """Note how a trial ended. One without a value would end so again: no other command repeats it."""
        assert job.trial is not None
        values = {name: found["value"] for name, found in metrics.items()}
        value = values.get(self.metric)
        lost = failure is None and value is None
        self.study(job.method.label).tell(
            job.trial,
            value=value,
            stopped_after=stopped_after,
            failure=self.no_value if lost else failure,
            lasting=lost,
            details={**spent, "metrics": values},
        )


def train_alone(
    context: TaskContext,
    job: StudentJob,
    *,
    train: Callable[[Path], Model],
    measure: Callable[[Model], Metrics],
    save: Callable[[Model, Path], None],
) -> None:
    """Train one student; a kill leaves checkpoints to go on from. A trial keeps its metrics alone.

    train: in a folder, by transformers' Trainer; a trial without what the search validates on, by which `measure` then
    measures it.
    """
    run, search, inputs = context.run, job.trial is not None, context.student_inputs(job)
    if search:
        inputs["search"] = digest(context.trial_inputs)

    def make(work: Path) -> None:
        from grkd.run.training import drop_checkpoints  # imports transformers, which takes seconds

        model = train(work)
        if run.ranks.is_main_process:
            if search:
                write_json(work / "metrics.json", measure(model))
            else:
                save(model, work / "model")
            drop_checkpoints(work)

    folder = run.stage(f"{'search' if search else 'train'}/{job.name}", inputs, make)
    if search and run.ranks.is_main_process:
        spent = read_json(folder / "training.json")
        context.tell(
            job, read_json(folder / "metrics.json"), spent={name: spent[name] for name in ("steps", "seconds")}
        )
