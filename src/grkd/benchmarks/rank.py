"""Rank fidelity: how well a student orders tokens and responses as its teacher does, or as grades say."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grkd.benchmarks._benchmark import Benchmark, Measure, Option
from grkd.errors import UserError
from grkd.files import file_digest
from grkd.metrics.registry import METRICS

if TYPE_CHECKING:
    from grkd.benchmarks._session import Session
    from grkd.benchmarks._settings import Settings


def check(settings: "Settings") -> None:
    """Raises UserError for a model that is behind a URL, and for no prompts or such without responses: other tasks may
    take hours before this one begins."""
    source = _source(settings)
    if not source.is_dir() and source.suffix != ".parquet":
        from grkd.benchmarks._rank_sources import read_prompts

        read_prompts(source, limit=settings.limit)


def run(session: "Session") -> dict[str, Any]:
    """Rank fidelity over held-out prompts, with intervals over prompts."""
    settings, source = session.settings, _source(session.settings)

    def make() -> dict[str, Any]:
        return rank_fidelity(
            session.name,
            source,
            teacher=settings.option("teacher"),
            limit=settings.limit,
            batch_size=settings.model.batch_size,
            device=str(session.device),
            seed=settings.seed,
            store=session.folder / "rank.jsonl",
        )

    found = session.once("rank", _inputs(settings, source), make)
    known = found["settings"]
    teacher = {"name": known["teacher"], "identity": known["teacher_identity"]}
    alike = {name: known[name] for name in ("top_k", "teacher_score")}
    return {**found, "conditions": {"teacher": teacher if known["teacher"] is not None else None, **alike}}


def rank_fidelity(model: str, source: Any, **options: Any) -> dict[str, Any]:
    """How a model orders what its teacher orders; torch is imported here."""
    from grkd.benchmarks import _rank_task as rank_task

    return rank_task.run(model, source, **options)


def _inputs(settings: "Settings", source: Path) -> dict[str, Any]:
    """What the result is made from besides the student, by content."""
    from grkd.answers.identity import model_digest
    from grkd.benchmarks._rank_sources import live_teacher

    named = settings.option("teacher")
    teacher = live_teacher(source, named)
    return {
        "source": _source_digest(source),
        "teacher": None if teacher is None else model_digest(teacher),
        "named": named is not None,  # else a run's stored scores order its responses
        "seed": settings.seed,
    }


def _source(settings: "Settings") -> Path:
    """--prompts, or the run that the student's folder lies in. Raises UserError when there is neither."""
    model = settings.model.model
    if model is None or model.startswith(("http://", "https://")):
        raise UserError("--tasks rank needs the student's own log-probabilities; MODEL must be a folder or a hub name")
    if (prompts := settings.option("prompts")) is not None:
        return Path(prompts)
    for folder in Path(model).resolve().parents:
        if (folder / "respond").is_dir() and (folder / "score").is_dir():
            return folder
    raise UserError(
        "--tasks rank needs --prompts: a run's folder with its score stage, or a JSONL file of prompts with completions"
    )


def _source_digest(source: Path) -> Any:
    """What is measured on, by content: a run's score stage, or a file; of graded responses their questions too."""
    manifest, questions = source / "score" / "manifest.json", source.with_name("question.jsonl")
    known = next((path for path in (manifest, source) if path.is_file()), None)
    if source.suffix == ".parquet" and questions.is_file():
        return [file_digest(source), file_digest(questions)]
    return str(source.resolve()) if known is None else file_digest(known)


def _measures() -> Iterator[Measure]:
    """Of tokens (weighted by their number), of responses, and of responses by grades."""
    names = (
        "pair_accuracy",
        "top1_agreement",
        "best_has_top_grade",
        "kendall_tau",
        "ndcg",
        "forward_kl_nats",
        "reverse_kl_nats",
    )
    for prefix, weight in (("token", "tokens"), ("response", None), ("grade", None)):
        for name in names:
            known = METRICS[name]
            label = f"{known.label} of {prefix}s" if prefix != "grade" else f"{known.label}, by grades"
            metric = replace(known, name=f"{prefix}_{name}", label=label)
            yield Measure(metric=metric, key=metric.name, weight=weight)


BENCHMARK = Benchmark(
    name="rank",
    title="rank",
    order=6,
    check=check,
    run=run,
    own_prompts=True,
    measures=tuple(_measures()),
    options=(
        Option(name="teacher", metavar="MODEL", help="the teacher whose order the student learns"),
        Option(name="prompts", kind=Path, metavar="PATH", help="a scored run, or prompts with completions (JSONL)"),
    ),
)
