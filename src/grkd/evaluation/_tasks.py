"""One function a task: from a session to its result. Every result has `metrics`: name -> value, low, high."""

from pathlib import Path
from typing import Any

from grkd.answers.identity import model_digest
from grkd.answers.local import Question, RemoteModel
from grkd.benchmarks import exact_match as exact
from grkd.benchmarks import mt_bench as mt
from grkd.benchmarks._rank_sources import live_teacher
from grkd.errors import UserError
from grkd.evaluation import _comparison_files as _benchmarks
from grkd.evaluation import _pairwise
from grkd.evaluation.options import Options
from grkd.evaluation.session import Session, asked, cost_of_answers
from grkd.files import digest, file_digest, read_json, write_json
from grkd.run.device import device

_ENDPOINT = (
    "zero-shot through the endpoint, last number of the answer; not lm-eval's setting "
    "(--fewshot and --chat have no effect)"
)
alpaca_eval, arena_hard = _pairwise.alpaca_eval, _pairwise.arena_hard
from_annotations, from_battles = _pairwise.from_annotations, _pairwise.from_battles


def check_data(session: Session) -> None:
    """Read every task's files before anything is generated. Raises UserError for what is missing or malformed."""
    options = session.options
    for task in options.tasks:
        if task == "mt_bench":
            mt.read(session.data, limit=options.limit)
        elif task == "alpaca_eval":
            _benchmarks.alpaca_items(session.data, options.limit)
        elif task == "arena_hard":
            _benchmarks.arena_items(session.data, options.limit)
            _pairwise.arena_protocol(options)
        elif task == "gsm8k":
            exact.read_questions(gsm8k_test(session.data), limit=options.limit)
        elif task == "rank":
            rank_source(options)
        elif task == "exact_match":
            exact.read_questions(_questions_file(options), limit=options.limit)


def mt_bench(session: Session) -> dict[str, Any]:
    """MT-Bench by single-answer grading."""
    options = session.options
    benchmark = mt.read(session.data, limit=options.limit)
    answers = session.answers(
        [item.question for item in benchmark.items], task="mt_bench", max_new_tokens=mt.ANSWER_TOKENS
    )
    requests = [
        mt.judge_request(
            benchmark,
            item,
            [text.text for text in answers[item.question.id]],
            turn,
            max_tokens=min(mt.JUDGE_TOKENS, options.judge_tokens or mt.JUDGE_TOKENS),
        )
        for item in benchmark.items
        for turn in range(1, len(item.question.turns) + 1)
    ]
    compared = {item.question.id: asked(*item.question.turns, *(item.references or ())) for item in benchmark.items}
    outcome = session.judgements(requests, task="mt_bench")
    found = mt.score(benchmark, {name: judged.text for name, judged in outcome.judgements.items()}, seed=options.seed)
    return {
        "metrics": {
            "score": {"value": found["score"], "low": found["low"], "high": found["high"]},
            **{name: _value(found[name]) for name in ("turn_1", "turn_2")},
            **{f"category_{name}": _value(mean) for name, mean in found["categories"].items()},
        },
        **{name: found[name] for name in ("questions", "n", "unparsable", "missing")},
        "items": [{**item, "asked": compared[item["id"]]} for item in found["items"]],
        **cost_of_answers(answers),
        **session.judged(
            requests,
            outcome,
            benchmark_judge=mt.BENCHMARK_JUDGE,
            prompt=[benchmark.prompts[name] for name in mt.PROMPTS],
        ),
    }


def gsm8k(session: Session) -> dict[str, Any]:
    """GSM8K through lm-eval; for a model behind a URL by exact match of its zero-shot answers."""
    options = session.options
    if isinstance(session.source, RemoteModel):
        found = _exact(session, gsm8k_test(session.data), task="gsm8k")
        return {**found, "note": _ENDPOINT}
    inputs = {
        "gsm8k": file_digest(gsm8k_test(session.data)),
        "max_new_tokens": options.answer_tokens,
        "fewshot": options.fewshot,
        "chat": options.chat,
    }

    def run() -> dict[str, Any]:
        from grkd.benchmarks import gsm8k as harness

        where = device(options.device)
        return harness.run(
            session.name,
            session.data,
            limit=options.limit,
            batch_size=options.batch_size,
            device=str(where),
            fewshot=options.fewshot,
            chat=options.chat,
            max_new_tokens=options.answer_tokens,
            store=session.folder / "gsm8k" / f"responses-{digest([session.source.identity, where.type])[:16]}.db",
        )

    found = _once(session, "gsm8k", inputs, run)
    alike = {name: found.get("settings", {}).get(name) for name in ("fewshot", "chat", "max_new_tokens")}
    return {**_with_asked(found), "conditions": alike}


def exact_match(session: Session) -> dict[str, Any]:
    """The share of right answers to the questions of a JSONL file."""
    return _exact(session, _questions_file(session.options), task="exact_match")


def rank(session: Session) -> dict[str, Any]:
    """How well the student has learnt the teacher's order over held-out prompts."""
    from grkd.benchmarks import _rank_task as rank_task

    options, source = session.options, rank_source(session.options)
    inputs = rank_inputs(options, source)

    def run() -> dict[str, Any]:
        return rank_task.run(
            session.name,
            source,
            teacher=options.teacher,
            limit=options.limit,
            batch_size=options.batch_size,
            device=str(device(options.device)),
            seed=options.seed,
            store=session.folder / "rank.jsonl",
        )

    found = _once(session, "rank", inputs, run)
    settings = found["settings"]
    teacher = {"name": settings["teacher"], "identity": settings["teacher_identity"]}
    alike = {name: settings[name] for name in ("top_k", "teacher_score")}
    return {**found, "conditions": {"teacher": teacher if settings["teacher"] is not None else None, **alike}}


def rank_inputs(options: Options, source: Path) -> dict[str, Any]:
    """What the rank task's result is made from besides the student, by content."""
    teacher = live_teacher(source, options.teacher)
    return {
        "source": _source_digest(source),
        "teacher": None if teacher is None else model_digest(teacher),
        "named": options.teacher is not None,  # else a run's stored scores order its responses
        "seed": options.seed,
    }


def rank_source(options: Options) -> Path:
    """--prompts, or the run that the student's folder lies in. Raises UserError where there is neither."""
    if options.model is None or options.model.startswith(("http://", "https://")):
        raise UserError("--tasks rank needs the student's own log-probabilities; MODEL must be a folder or a hub name")
    if options.prompts is not None:
        return options.prompts
    for folder in Path(options.model).resolve().parents:
        if (folder / "respond").is_dir() and (folder / "score").is_dir():
            return folder
    raise UserError(
        "--tasks rank needs --prompts: a run's folder with its score stage, or a JSONL file of prompts with completions"
    )


def gsm8k_test(data: Path) -> Path:
    inside = data / "gsm8k" / "test.jsonl"
    return inside if inside.is_file() or not (data / "test.jsonl").is_file() else data / "test.jsonl"


def _exact(session: Session, path: Path, *, task: str) -> dict[str, Any]:
    items = exact.read_questions(path, limit=session.options.limit)
    answers = session.answers(
        [Question(id=item.id, turns=(item.question,)) for item in items], task=task, max_new_tokens=512
    )
    found = exact.score(items, [answers[item.id][0].text for item in items])
    return {
        **_with_asked(found),
        **cost_of_answers(answers),
        "conditions": {"answer_tokens": session.options.answer_tokens},
    }


def _questions_file(options: Options) -> Path:
    if options.questions is None:
        raise UserError('--tasks exact_match needs --questions FILE, a JSONL file of {"question", "answer"}')
    return options.questions


def _once(session: Session, task: str, inputs: dict[str, Any], run: Any) -> dict[str, Any]:
    """The stored result of a task that is made in one piece, or a new one if model or settings changed."""
    options = session.options
    # These tasks choose their precision by the device.
    where = device(options.device).type
    key = digest([session.source.identity, where, options.limit, options.batch_size, inputs])
    path = session.folder / "results" / f"{task}.json"
    if path.is_file():
        stored: dict[str, Any] = read_json(path)
        if stored.get("key") == key:
            return stored
    found = {"complete": True, **run(), "key": key}
    write_json(path, found)
    return found


def _with_asked(found: dict[str, Any]) -> dict[str, Any]:
    """The result with a digest of each item's question and answer, so that other questions are never compared."""
    items = [{**item, "asked": asked(item["question"], item["answer"])} for item in found.get("items", ())]
    return {**found, "items": items}


def _source_digest(source: Path) -> Any:
    """What the rank task measures on, by content: a run's score stage, or a file."""
    manifest = source / "score" / "manifest.json"
    known = next((path for path in (manifest, source) if path.is_file()), None)
    return str(source.resolve()) if known is None else file_digest(known)


def _value(number: float | None) -> dict[str, float | None]:
    return {"value": number, "low": None, "high": None}
