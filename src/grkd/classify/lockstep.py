"""Students trained together on the same batches on the device: networks on data in memory."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from grkd import objectives
from grkd.classify.context import NOT_FINITE, ClassifierContext
from grkd.classify.device_data import device_data
from grkd.classify.evaluate import evaluate_student, validation_metrics
from grkd.classify.student import load_weights_of, save_classifier
from grkd.classify.train import training_rows
from grkd.compare.outcomes import note_failure
from grkd.compare.student_job import StudentJob
from grkd.console import console, progress_bar
from grkd.files import write_json, write_text
from grkd.ranks import MetByAllError, are_several
from grkd.recipe import Training
from grkd.training.lockstep.loop import PREDICTED, Trained, Watch, train_lockstep
from grkd.training.lockstep.student import Job, Plan


def plan_of(context: ClassifierContext, training: Training, *, data_seed: int, epochs: float | None = None) -> Plan:
    """A recipe's training section as a lock-step plan; epochs: in place of its own length."""
    lockstep = context.recipe.lockstep
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
        bf16=context.bf16,
    )


def train_together(context: ClassifierContext, jobs: Sequence[StudentJob]) -> None:
    """Train, measure and write students of one seed. With several ranks the main one does it, the others wait."""
    search = jobs[0].trial is not None
    missing = [
        job for job in jobs if search or not context.run.complete(f"train/{job.name}", context.student_inputs(job))
    ]
    trained: dict[str, Trained] = {}
    error: Exception | None = None
    if missing and context.run.ranks.is_main_process:
        try:
            trained = _trained(context, missing, search=search)
        except Exception as found:  # raised below, on every rank
            error = found
    reason = context.run.from_main(lambda: None if error is None else f"{type(error).__name__}: {error}")
    if reason is not None and are_several():
        raise MetByAllError(reason) from error
    if error is not None:
        raise error
    for job in jobs:
        if search:
            if context.run.ranks.is_main_process:
                _tell(context, job, trained[job.name])
        else:
            _keep(context, job, trained.get(job.name))


def _trained(context: ClassifierContext, jobs: Sequence[StudentJob], *, search: bool) -> dict[str, Trained]:
    recipe, since, data = context.recipe, time.perf_counter(), device_data(context)
    seed = jobs[0].seed
    plan = plan_of(context, recipe.training, data_seed=seed, epochs=recipe.lockstep.search_epochs if search else None)
    examples = data.examples(training_rows(context, seed=seed, search=search))
    a_pass = len(examples) // min(plan.batch_size, len(examples))
    epochs = math.ceil(plan.steps(a_pass) / a_pass)
    prune = _pruner(context, jobs, math.ceil(epochs / 2)) if search and recipe.lockstep.prune else None
    with progress_bar() as bar:
        task = bar.add_task(f"{len(jobs)} students", total=epochs, unit="epoch")

        def watch(epoch: int, modules: Mapping[str, nn.Module]) -> Collection[str]:
            bar.update(task, completed=epoch)
            return () if prune is None else prune(epoch, modules)

        found = train_lockstep(
            [
                Job(
                    name=job.name,
                    objective=objectives.load(job.method.name, **job.method.options),
                    seed=job.seed,
                    learning_rate=job.learning_rate,
                )
                for job in jobs
            ],
            examples,
            build=data.student,
            plan=plan,
            teacher=data.live_teacher,
            watch=watch,
        )
        bar.update(task, completed=epochs)
    images = sum(one.steps for one in found.values()) * plan.batch_size
    seconds = time.perf_counter() - since
    console.print(
        f"[dim]{len(jobs)} students in {seconds:.1f} s, {images / seconds:,.0f} examples per second[/dim]",
        soft_wrap=True,
    )
    return found


def _pruner(context: ClassifierContext, jobs: Sequence[StudentJob], half: int) -> Watch:
    """Stops, after epoch `half`, the trials that Optuna's median pruner gives up."""
    by_name = {job.name: job for job in jobs}
    studies = {label: context.study(label) for label in {job.method.label for job in jobs}}

    def watch(epoch: int, modules: Mapping[str, nn.Module]) -> Collection[str]:
        stopped = set()
        for name, module in modules.items() if epoch == half else ():
            job = by_name[name]
            logits = device_data(context).validation_logits(module)
            value = validation_metrics(context, logits)[context.metric]["value"]
            assert job.trial is not None
            known = math.nan if value is None else value
            if studies[job.method.label].should_stop(job.trial, epoch=epoch, value=known):
                stopped.add(name)
        return stopped

    return watch


def _tell(context: ClassifierContext, job: StudentJob, trained: Trained) -> None:
    metrics = {}
    if trained.failure is None:
        metrics = validation_metrics(context, device_data(context).validation_logits(trained.module))
    spent = {"steps": trained.steps, "seconds": trained.seconds}
    context.tell(job, metrics, failure=trained.failure, stopped_after=trained.stopped, spent=spent)


def _keep(context: ClassifierContext, job: StudentJob, trained: Trained | None) -> None:
    """Write a final student and its metrics; trained: None if it is on disk already, or on ranks that wait."""
    data, run = device_data(context), context.run

    def failed() -> str | None:
        if trained is None or trained.failure is not None:
            return None if trained is None else trained.failure
        logits, _ = data.heldout_logits(trained.module)
        return None if bool(logits.isfinite().all()) else NOT_FINITE

    failure = run.from_main(failed)
    if failure is not None:
        note_failure(context, job, failure)
        return

    def make(work: Path) -> None:
        if trained is None:
            return
        save_classifier(trained.module, work / "model")
        per_epoch = trained.steps / max(1, len(trained.losses_nats))
        losses = enumerate(trained.losses_nats, start=1)
        lines = [f'{{"step": {round(per_epoch * n)}, "loss_nats": {loss!r}}}\n' for n, loss in losses]
        write_text(work / "metrics.jsonl", "".join(lines))
        spent = {"steps": trained.steps, "seconds": trained.seconds, "rows_seen": trained.rows_seen}
        write_json(work / "training.json", spent)

    run.stage(f"train/{job.name}", context.student_inputs(job), make)

    def opened() -> Callable[[], tuple[Tensor, Tensor | None]]:
        if trained is not None:
            return lambda: data.heldout_logits(trained.module)
        module = data.student(job.seed)
        load_weights_of(module, run.path / "train" / job.name / "model")
        module = module.to(context.device)
        return lambda: data.heldout_logits(module)

    evaluate_student(context, job.name, opened, batch_size=PREDICTED)
