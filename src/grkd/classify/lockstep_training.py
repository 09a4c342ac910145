"""Students of a comparison that one process trains in lock-step: training, measuring, writing."""

import math
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from grkd import objectives
from grkd.classify.lockstep_data import Comparison
from grkd.classify.metrics import Yardstick, figures
from grkd.classify.trials import Run, key, metric, records, space, try_file
from grkd.compare import search as _search
from grkd.console import console
from grkd.data.splits import stratified_sample, stratified_split
from grkd.files import digest, read_json, write_json, write_text
from grkd.metrics.registry import higher_is_better
from grkd.recipe import ClassifierRecipe, to_plain
from grkd.run.folder import RunFolder
from grkd.training.lockstep.loop import Trained, Watch, predict, train_lockstep
from grkd.training.lockstep.student import Job

NOT_FINITE = "its scores are not finite"


@dataclass(frozen=True, kw_only=True)
class Pack:
    """Runs of one seed that are trained together; search: tries, else runs that count.

    deadline: a time as of time.time(), after which the pack is not begun.
    """

    recipe: ClassifierRecipe
    runs: tuple[Run, ...]
    search: bool
    deadline: float | None = None


def train_pack(pack: Pack) -> None:
    """Train a pack's students together and write what became of each (in a process of its own, or in this one)."""
    if pack.deadline is not None and time.time() > pack.deadline:
        return
    recipe, since = pack.recipe, time.perf_counter()
    comparison = _opened(recipe)
    kept, measured = _parts(comparison, pack)
    jobs = [
        Job(
            name=one.name,
            objective=objectives.load(one.method.name, **one.method.options),
            seed=one.seed,
            learning_rate=one.learning_rate,
        )
        for one in pack.runs
    ]
    epochs = recipe.lockstep.search_epochs if pack.search else None
    plan = comparison.plan(recipe.training, data_seed=pack.runs[0].seed, epochs=epochs)
    examples, halves = comparison.examples(kept), dict[str, float]()
    a_pass = len(examples) // min(plan.batch_size, len(examples))
    half = math.ceil(plan.steps(a_pass) / a_pass / 2)
    found = train_lockstep(
        jobs,
        examples,
        build=comparison.student,
        plan=plan,
        teacher=comparison.live_teacher,
        watch=_pruner(comparison, pack, measured, halves, half) if pack.search else None,
    )
    for one in pack.runs:
        write, trained = _write_try if pack.search else _write_final, found[one.name]
        metrics = {} if trained.failure is not None else _measured(comparison, trained.module, measured)
        write(comparison, one, trained, metrics, halves)
    images = sum(trained.steps for trained in found.values()) * plan.batch_size
    seconds = time.perf_counter() - since
    console.print(
        f"[dim]{len(jobs)} students in {seconds:.1f} s, {images / seconds:,.0f} examples a second[/dim]", soft_wrap=True
    )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Examples on which students are measured: a validation part (rows of the training part), or the held-out part."""

    inputs: Tensor
    yardstick: Yardstick
    outside: Tensor | None = None


class _Hashed:
    """A comparison as the key of a cache: by its recipe, where it is, and what its data and teacher were made from."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        where = str(comparison.run.path.resolve())
        self.key = digest([to_plain(comparison.recipe), where, comparison.keys()])

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self.key == other.key


def _opened(recipe: ClassifierRecipe) -> Comparison:
    """The comparison with its tensors on the device, once a process."""
    return _kept(_Hashed(Comparison(recipe, RunFolder(Path(recipe.output)))))


@lru_cache(maxsize=1)
def _kept(hashed: _Hashed) -> Comparison:
    return hashed.comparison


def _parts(comparison: Comparison, pack: Pack) -> tuple[Tensor | None, Measured]:
    """Which training examples the students see (None: all), and what they are measured on."""
    recipe, tensors = comparison.recipe, comparison.tensors
    labels = tensors["labels"].cpu()
    if not pack.search:
        limit, seed = recipe.data.student_limit, pack.runs[0].seed
        kept = None if limit is None else stratified_sample(labels, limit, seed=seed)
        return kept, heldout(comparison)
    assert recipe.search is not None
    kept, aside = stratified_split(labels, recipe.search.validation_fraction, seed=recipe.seeds[0])
    if recipe.data.student_limit is not None:
        classes = len(labels[kept].unique())  # each of them keeps an example
        size = max(classes, round(recipe.data.student_limit * (1 - recipe.search.validation_fraction)))
        kept = kept[stratified_sample(labels[kept], size, seed=recipe.seeds[0])]
    rows = aside.to(comparison.device)
    yardstick = Yardstick(labels=tensors["labels"][rows], teacher=comparison.said["train"][rows])
    return kept, Measured(inputs=tensors["inputs"][rows], yardstick=yardstick)


def heldout(comparison: Comparison, *, teacher: bool = True) -> Measured:
    """The held-out part; teacher: compared with the teacher's scores too."""
    tensors, recipe = comparison.tensors, comparison.recipe
    names = read_json(comparison.run.path / "prepare" / "classes.json")
    groups = recipe.evaluation.groups or read_json(comparison.run.path / "tensors" / "groups.json")
    yardstick = Yardstick(
        labels=tensors["heldout_labels"],
        teacher=comparison.said["heldout"] if teacher else None,
        votes=tensors.get("votes"),
        groups={name: [names.index(member) for member in members] for name, members in groups.items()},
    )
    return Measured(inputs=tensors["heldout_inputs"], yardstick=yardstick, outside=tensors.get("outside_inputs"))


def _measured(comparison: Comparison, module: nn.Module, on: Measured) -> dict[str, Any]:
    bf16 = comparison.bf16
    outside = None if on.outside is None else predict(module, on.outside, bf16=bf16)
    return figures(predict(module, on.inputs, bf16=bf16), on.yardstick, outside=outside)


def _pruner(comparison: Comparison, pack: Pack, on: Measured, halves: dict[str, float], half: int) -> Watch:
    """What stops, after epoch `half`, the tries below the median of their method."""
    search = comparison.recipe.search
    assert search is not None
    by, maximise = metric(search), higher_is_better(metric(search))
    by_name = {one.name: one for one in pack.runs}

    def watch(epoch: int, modules: Mapping[str, nn.Module]) -> Collection[str]:
        if epoch != half or not comparison.recipe.lockstep.prune:
            return ()
        stopped: set[str] = set()
        for name, module in modules.items():
            value = _measured(comparison, module, on)[by]["value"]
            halves[name] = math.nan if value is None else value
        for label in {by_name[name].method.label for name in modules}:
            earlier = {
                f"{label} before {number}": record["half"]
                for number, record in enumerate(records(comparison, label))
                if record["half"] is not None
            }
            values = {name: halves[name] for name in modules if by_name[name].method.label == label}
            stopped |= _search.below_median({**earlier, **values}, maximise=maximise) & set(values)
        return stopped

    return watch


def _write_try(
    comparison: Comparison, one: Run, trained: Trained, metrics: dict[str, Any], halves: Mapping[str, float]
) -> None:
    search = comparison.recipe.search
    assert search is not None
    half = halves.get(one.name)
    value = None if trained.failure is not None else metrics[metric(search)]["value"]
    sound = trained.failure is None and trained.stopped is None
    record = {
        "number": one.number,
        "settings": {name: one.settings[name] for name in space(comparison.recipe, one.method)},
        "value": value if sound else None,
        "half": None if half is None or math.isnan(half) else half,
        "stopped_after": trained.stopped,
        "failure": trained.failure or (None if value is not None or not sound else NOT_FINITE),
        "steps": trained.steps,
        "seconds": trained.seconds,
        "metrics": {name: found["value"] for name, found in metrics.items()},
        "key": key(comparison, one),
    }
    write_json(try_file(comparison, one.method.label, one.number or 0), record)


def _write_final(
    comparison: Comparison, one: Run, trained: Trained, metrics: dict[str, Any], halves: Mapping[str, float]
) -> None:
    folder = comparison.run.path / "train" / one.name
    failure = trained.failure or (None if metrics["accuracy"]["value"] is not None else NOT_FINITE)
    if failure is not None:
        write_json(folder / "failure.json", {"failure": failure})
        return
    # An older manifest must not vouch for what follows, nor a model of `grkd run` lie beside another's figures.
    shutil.rmtree(folder, ignore_errors=True)
    a_pass = trained.steps / max(1, len(trained.losses_nats))
    lines = [f'{{"step": {round(a_pass * (n + 1))}, "loss_nats": {x!r}}}\n' for n, x in enumerate(trained.losses_nats)]
    write_text(folder / "metrics.jsonl", "".join(lines))
    write_json(folder / "training.json", {"steps": trained.steps, "seconds": trained.seconds})
    write_json(comparison.run.path / "evaluate" / one.name / "metrics.json", metrics)
    # Last: what says that the rest is whole.
    write_json(folder / "manifest.json", {"key": key(comparison, one), "settings": one.settings})
