"""GSM8K: grade-school word problems, by lm-eval's own task; for a model behind a URL by exact match, zero-shot."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from grkd.benchmarks._benchmark import Benchmark, Column, Measure, Option
from grkd.benchmarks._results import with_asked
from grkd.files import digest, file_digest
from grkd.metrics.registry import METRICS

if TYPE_CHECKING:
    from grkd.benchmarks._session import Session
    from grkd.benchmarks._settings import Settings

_ENDPOINT = (
    "zero-shot through the endpoint, last number of the answer; not lm-eval's setting "
    "(--fewshot and --chat have no effect)"
)


def check(settings: "Settings") -> None:
    """Raises UserError for a file of questions that is missing or malformed."""
    from grkd.metrics.exact_match import read_questions

    read_questions(_test_file(settings.folder), limit=settings.limit)


def run(session: "Session") -> dict[str, Any]:
    """Accuracy with its interval, and what was found in each response."""
    settings, questions = session.settings, _test_file(session.settings.folder)
    if session.is_remote:
        from grkd.benchmarks._exact_answers import answered

        return {**answered(session, questions, task="gsm8k"), "note": _ENDPOINT}
    options = {
        "max_new_tokens": settings.model.answer_tokens,
        "fewshot": settings.option("fewshot"),
        "chat": settings.option("chat"),
    }

    def make() -> dict[str, Any]:
        place = digest([session.source.identity, session.device.type])[:16]
        return by_harness(
            session.name,
            settings.folder,
            limit=settings.limit,
            batch_size=settings.model.batch_size,
            device=str(session.device),
            store=session.folder / "gsm8k" / f"responses-{place}.db",
            **options,
        )

    examples = questions.with_name("train.jsonl")
    shown = file_digest(examples) if options["fewshot"] and examples.is_file() else None
    found = session.once("gsm8k", {"gsm8k": file_digest(questions), "examples": shown, **options}, make)
    alike = {name: found.get("settings", {}).get(name) for name in ("fewshot", "chat", "max_new_tokens")}
    return {**with_asked(found), "conditions": alike}


def by_harness(model: str, folder: Path, **options: Any) -> dict[str, Any]:
    """GSM8K as lm-eval has it, for a model on this machine; lm-eval is imported here."""
    from grkd.benchmarks import _gsm8k_harness as harness

    return harness.run(model, folder, **options)


def _test_file(data: Path) -> Path:
    inside = data / "gsm8k" / "test.jsonl"
    return inside if inside.is_file() or not (data / "test.jsonl").is_file() else data / "test.jsonl"


BENCHMARK = Benchmark(
    name="gsm8k",
    title="GSM8K",
    order=4,
    data_hint="gsm8k/ (train.jsonl, test.jsonl)",
    check=check,
    run=run,
    own_prompts=True,
    measures=(Measure(metric=METRICS["accuracy"], key="correct", right_or_wrong=True),),
    columns=(Column(name="gsm8k_percent", unit="%", metrics=("accuracy", "exact_match"), scale=100.0, always=True),),
    options=(
        Option(name="fewshot", kind=int, default=5, least=0, metavar="N", help="worked examples before each question"),
        Option(name="chat", kind=bool, default=False, help="use the chat template (zero-shot: --fewshot 0)"),
    ),
)
