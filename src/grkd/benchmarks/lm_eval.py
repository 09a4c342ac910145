"""Any task of lm-eval by name, `--tasks lm_eval:arc_easy`: what a student has forgotten is seen there."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grkd.benchmarks._benchmark import Benchmark, Column, Measure, Option
from grkd.errors import UserError
from grkd.metrics.registry import Metric

if TYPE_CHECKING:
    from grkd.benchmarks._session import Session
    from grkd.benchmarks._settings import Settings

PREFIX = "lm_eval:"
# The metric that is compared and shown: the first of these that a task has, else its first.
MAIN = ("acc_norm", "acc", "exact_match", "f1", "em", "bleu", "rouge1")


def task(name: str) -> Benchmark:
    """The benchmark of `lm_eval:NAME`; the names are lm-eval's own, and looked for when it runs.

    Raises UserError for an empty name.
    """
    own = name.removeprefix(PREFIX)
    if not own:
        raise UserError("--tasks: lm_eval: needs the name of a task behind it, such as lm_eval:arc_easy")
    return replace(BENCHMARK, name=name, title=own, run=partial(_run, own), check=_check, measures=(measure(),))


def measure(*, right_or_wrong: bool = True) -> Measure:
    """What two models are compared by: the task's main metric."""
    metric = Metric(name="value", label="main metric", unit="%", direction=1, decimals=1, scale=100.0)
    return Measure(metric=metric, key="value", right_or_wrong=right_or_wrong)


def column_of(name: str) -> Column:
    """The task's main metric in `grkd table`."""
    return Column(name=name, metrics=MAIN, unit="%", scale=100.0)


def _check(settings: "Settings") -> None:
    """Raises UserError for a folder of tasks that is not there, and a model behind a URL."""
    model, folder = settings.model.model, settings.option("lm_eval_folder")
    if model is not None and model.startswith(("http://", "https://")):
        raise UserError("--tasks lm_eval:... reads log-probabilities; MODEL must be a folder or a hub name")
    if folder is not None and not folder.is_dir():
        raise UserError(f"--lm-eval-folder: {folder}: no such folder")


def _unnamed(settings: "Settings") -> None:
    raise UserError("--tasks: lm_eval needs a task behind it, such as lm_eval:arc_easy")


def _run(name: str, session: "Session") -> dict[str, Any]:
    """The task's metrics, and an item per question."""
    from grkd.benchmarks import _lm_eval_run as harness

    settings = session.settings
    folder, chat = settings.option("lm_eval_folder"), bool(settings.option("lm_eval_chat"))

    def make() -> dict[str, Any]:
        return harness.run(
            session.name,
            name,
            folder=folder,
            limit=settings.limit,
            batch_size=settings.model.batch_size,
            device=str(session.device),
            chat=chat,
        )

    found = session.once(PREFIX + name, {"folder": _digest(folder), "chat": chat}, make)
    return {**found, "conditions": {"chat": chat, "metric": found["main"], "library": found["settings"]["library"]}}


def _digest(folder: Path | None) -> Any:
    """The task files of a folder by content."""
    if folder is None:
        return None
    from grkd.files import file_digest

    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


BENCHMARK = Benchmark(
    name="lm_eval",
    title="lm-eval",
    order=90,
    check=_unnamed,
    run=partial(_run, ""),
    own_prompts=True,
    options=(
        Option(name="lm_eval_folder", kind=Path, metavar="DIR", help="your own task files, such as mine.yaml"),
        Option(name="lm_eval_chat", kind=bool, default=False, help="use the chat template for prompts"),
    ),
)
