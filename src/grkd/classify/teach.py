"""A classifier's second stage: the teacher, trained or loaded. Its training leaves out what a search validates on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from torch import Tensor
from torch.utils.data import Subset

from grkd import objectives
from grkd.classify.context import ClassifierContext
from grkd.classify.data import Classifier
from grkd.classify.engine import teacher_in_lockstep
from grkd.classify.lockstep import plan_of
from grkd.classify.student import save_classifier
from grkd.console import console
from grkd.data.classification_batches import ClassificationDataset, Collate
from grkd.errors import UserError
from grkd.files import write_json
from grkd.models.networks import BUILT_IN, is_transformers
from grkd.recipe import ClassifierRecipe, RankedLabels, to_plain
from grkd.training.lockstep.batches import DeviceExamples
from grkd.training.lockstep.loop import train_lockstep
from grkd.training.lockstep.student import Job


def check_teacher(recipe: ClassifierRecipe) -> None:
    """Reject a built-in teacher without training and weights: it has learnt nothing. Warn of a factory's, which may."""
    spec = recipe.teacher
    if spec.training is not None or spec.weights is not None:
        return
    if spec.model in BUILT_IN:
        raise UserError(
            f"teacher: {spec.model} has learnt nothing yet; add training: {{epochs: 10}} or weights: FILE.safetensors"
        )
    if not is_transformers(spec.model):
        console.print(
            f"[yellow]teacher: {spec.model} gets no training and no weights here; unless the factory loads weights "
            "itself, a random teacher is distilled. Add training: {epochs: 10} or weights: FILE.safetensors[/yellow]",
            markup=True,
        )


def teach(context: ClassifierContext) -> Path:
    """The teacher's model/: trained without the search's validation part, or loaded; checked against the data."""
    if context.recipe.search is not None and not context.holds_out:
        console.print(
            "[yellow]teacher: it is loaded as it is; if it was trained on the examples of data, the search rewards "
            "imitation of what it knows by heart[/yellow]"
        )
    return context.teacher_run.stage("teach", context.teacher_inputs, lambda work: _make(context, work))


@contextmanager
def alone(context: ClassifierContext) -> Iterator[None]:
    """Recipes that share a teacher make it once: the others wait."""
    if context.teacher_run is context.run or not context.run.ranks.is_main_process:
        yield
        return
    context.teacher_run.path.mkdir(parents=True, exist_ok=True)
    with FileLock(context.teacher_run.path / ".teach.lock"):
        yield


def _make(context: ClassifierContext, work: Path) -> None:
    from grkd.run.training import drop_checkpoints  # imports transformers, which takes seconds

    spec, main = context.recipe.teacher, context.run.ranks.is_main_process
    if isinstance(spec, RankedLabels):
        if main:
            write_json(work / "ranked.json", to_plain(spec))
        return
    teacher = context.view(spec, needs_head=spec.training is None)
    if spec.training is not None and teacher_in_lockstep(context.recipe):
        if main:
            _train_in_lockstep(context, teacher, work)
    elif spec.training is not None:
        _train_by_trainer(context, teacher, work)
    if main:
        save_classifier(teacher.module, work / "model", processor=teacher.processor)
        drop_checkpoints(work)


def _labels(context: ClassifierContext) -> Tensor:
    """The teacher's own training labels if the data has others for it."""
    data = context.data
    return data.train_labels if data.teacher_labels is None else data.teacher_labels


def _train_in_lockstep(context: ClassifierContext, teacher: Classifier, work: Path) -> None:
    training, inputs, labels = context.recipe.teacher.training, teacher.train_inputs, _labels(context)
    assert training is not None
    if not isinstance(inputs, Tensor):
        raise UserError("teacher: its inputs do not fit into memory; set teacher.training.gradient_accumulation to 2")
    if context.teacher_rows is not None:
        inputs, labels = inputs[context.teacher_rows], labels[context.teacher_rows]
    examples = DeviceExamples(inputs=inputs.to(context.device), labels=labels.to(context.device))
    job = Job(name="teacher", objective=objectives.load("ce"), seed=context.seed, learning_rate=training.learning_rate)
    plan = plan_of(context, training, data_seed=context.seed)
    found = train_lockstep([job], examples, build=lambda _: teacher.module, plan=plan)["teacher"]
    if found.failure is not None:
        raise RuntimeError(f"the teacher's training failed: {found.failure}")
    write_json(work / "training.json", {"steps": found.steps, "seconds": found.seconds})


def _train_by_trainer(context: ClassifierContext, teacher: Classifier, work: Path) -> None:
    from grkd.run.training import train
    from grkd.training import ClassRows

    training = context.recipe.teacher.training
    assert training is not None
    dataset = ClassificationDataset(teacher.train_inputs, _labels(context))
    rows = context.teacher_rows
    train(
        teacher.module,
        dataset if rows is None else Subset(dataset, rows.tolist()),
        objective=objectives.load("ce"),
        rows=ClassRows(Collate(prepare=teacher.prepare)),
        training=training,
        folder=work,
        seed=context.seed,
        where=context.device,
        bf16=False,
        description="teach",
    )
