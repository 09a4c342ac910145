"""Students trained one at a time by transformers' Trainer: transformers models, and data that are read as needed."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from grkd import objectives
from grkd.classify.context import ClassifierContext
from grkd.classify.data import Classifier
from grkd.classify.evaluate import evaluate_student, validation_metrics
from grkd.classify.score import teacher_outputs
from grkd.classify.student import load_weights_of, save_classifier
from grkd.classify.train import training_rows
from grkd.compare.student_job import StudentJob
from grkd.compare.task import train_alone
from grkd.data.classification_batches import ClassificationDataset, Collate
from grkd.models.networks import predict
from grkd.run.training import train
from grkd.training import ClassRows


class _Student:
    """A student before training, with its view of the data, made when it is first needed."""

    def __init__(self, context: ClassifierContext, seed: int) -> None:
        self.context, self.seed = context, seed

    @cached_property
    def classifier(self) -> Classifier:
        return self.context.view(self.context.recipe.student, outside=self.context.data.outside_inputs, seed=self.seed)

    def dataset(self, rows: Tensor | None) -> Dataset[dict[str, Any]]:
        scores = teacher_outputs(self.context)["train"]
        whole = ClassificationDataset(
            self.classifier.train_inputs, self.context.labels["labels"], teacher_scores=scores
        )
        return whole if rows is None else Subset(whole, rows.tolist())

    def logits(self, module: nn.Module, inputs: Any) -> Tensor:
        size, where = self.context.recipe.evaluation.batch_size, self.context.device
        return predict(module.to(where), inputs, self.classifier.prepare, batch_size=size, device=where)

    def heldout_logits(self, module: nn.Module) -> tuple[Tensor, Tensor | None]:
        known = len(self.context.labels["heldout_labels"])
        logits = self.logits(module, self.classifier.heldout_inputs)
        return logits[:known], logits[known:] if len(logits) > known else None

    def validation_logits(self, module: nn.Module) -> Tensor:
        inputs = self.classifier.train_inputs
        return self.logits(module, [inputs[row] for row in self.context.search_rows[1].tolist()])


def train_one(context: ClassifierContext, job: StudentJob) -> None:
    """Train, measure and write one student."""
    student = _Student(context, job.seed)
    train_alone(
        context,
        job,
        train=lambda work: _trained(context, job, student, work),
        measure=lambda module: validation_metrics(context, student.validation_logits(module)),
        save=lambda module, folder: save_classifier(module, folder, processor=student.classifier.processor),
    )
    if job.trial is not None:
        return

    def opened() -> Callable[[], tuple[Tensor, Tensor | None]]:
        module = student.classifier.module
        load_weights_of(module, context.run.path / "train" / job.name / "model")
        return lambda: student.heldout_logits(module)

    evaluate_student(context, job.name, opened, batch_size=context.recipe.evaluation.batch_size)


def _trained(context: ClassifierContext, job: StudentJob, student: _Student, work: Path) -> nn.Module:
    search = job.trial is not None
    module = student.classifier.module
    whole = train(
        module,
        student.dataset(training_rows(context, seed=job.seed, search=search)),
        objective=objectives.load(job.method.name, **job.method.options),
        rows=ClassRows(Collate(prepare=student.classifier.prepare)),
        training=context.training_at(job.learning_rate, search=search),
        folder=work,
        seed=job.seed,
        where=context.device,
        bf16=False,
        description=f"{'search' if search else 'train'} {job.name}",
    )
    return module if whole is None else whole  # None where another process has the weights of a sharded student
