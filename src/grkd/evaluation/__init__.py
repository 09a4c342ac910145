"""`grkd eval`: a model's answers to benchmarks, judged, scored, and stored so that a kill loses nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grkd.console import console
from grkd.errors import UserError
from grkd.evaluation import _tasks
from grkd.evaluation.options import JUDGED, TASKS, Options, check
from grkd.evaluation.printing import print_results
from grkd.evaluation.session import Session
from grkd.files import read_json, write_json
from grkd.run.folder import RunFolder, command_line, environment

__all__ = ["TASKS", "Options", "evaluate"]

_TASK: dict[str, Callable[[Session], dict[str, Any]]] = {
    "gsm8k": _tasks.gsm8k,
    "alpaca_eval": _tasks.alpaca_eval,
    "arena_hard": _tasks.arena_hard,
    "mt_bench": _tasks.mt_bench,
    "rank": _tasks.rank,
    "exact_match": _tasks.exact_match,
}


def evaluate(options: Options) -> int:
    """Run the tasks and print their figures. Returns 0, or 1 where judgements are missing (budget, failures).

    Written below options.output: answers.jsonl and judgements.jsonl as they come, results/<task>.json, and
    evaluation.json over all tasks, those of earlier commands with the same model too. The same command again asks only
    for what is missing.
    With from_annotations or from_battles: only the figures of such a file, as JSON on standard output.
    Raises UserError for the user's mistakes.
    """
    if options.from_annotations is not None or options.from_battles is not None:
        print(json.dumps(_from_file(options), indent=2))
        return 0
    check(options)
    folder = RunFolder(options.output)
    existed = folder.path.exists()
    try:
        with folder.locked():
            session = Session(options, folder.path)
            _tasks.check_data(session)
            session.check()
            results = _run(session)
    except UserError:
        if not existed:
            _remove_if_empty(folder.path)
        raise
    print_results(session.name, results)
    return 0 if all(result["complete"] for result in results.values()) else 1


def _run(session: Session) -> dict[str, Any]:
    options, earlier = session.options, _earlier(session)
    results: dict[str, Any] = {}
    shown = dict(earlier)
    for task in options.tasks:
        if task in JUDGED and session.stopped:
            results[task] = {"complete": False, "stopped": session.stopped, "metrics": {}}
        else:
            results[task] = {"complete": True, **_TASK[task](session)}
        results[task]["limit"] = options.limit
        shown[task] = results[task]
        if task in earlier and results[task].get("stopped"):  # what an earlier command found is worth more
            shown[task] = earlier[task]
        write_json(session.folder / "results" / f"{task}.json", shown[task])
        _summary(session, shown)
    if session.stopped:
        console.print(f"[yellow]{session.stopped}; the same command goes on from here[/yellow]", soft_wrap=True)
    return results


def _earlier(session: Session) -> dict[str, Any]:
    """The tasks of evaluation.json as an earlier command left it; none where it is of another model."""
    path = session.folder / "evaluation.json"
    if not path.exists():
        return {}
    found = read_json(path)
    if found["identity"] != session.source.identity:
        return {}
    limit = found["settings"].get("limit")  # earlier versions had one for all tasks
    return {task: {"limit": limit, **result} for task, result in found["tasks"].items()}


def _summary(session: Session, results: dict[str, Any]) -> None:
    """evaluation.json, written anew after every task."""
    options = session.options
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(options).items()
        if value is not None
    }
    identity = session.source.identity
    write_json(
        session.folder / "evaluation.json",
        {
            "model": session.name,
            "generator": session.generator,
            "identity": identity,
            "judge": next((one["judge"] for one in reversed(results.values()) if one.get("judge")), None),
            "tasks": results,
            "settings": settings,
            "environment": environment(command_line()),
        },
    )


def _from_file(options: Options) -> dict[str, Any]:
    """Figures of an annotation or battle file."""
    given = (options.from_annotations, "alpaca_eval"), (options.from_battles, "arena_hard")
    path, task = next((path, task) for path, task in given if path is not None)
    if options.task not in (None, task):
        raise UserError(
            f"--task {options.task} does not fit the file: annotations are alpaca_eval's, battles arena_hard's"
        )
    if options.model is not None or options.tasks:
        raise UserError("eval: a file of annotations or battles is scored by itself; leave MODEL and --tasks out")
    return _tasks.from_annotations(path, options) if task == "alpaca_eval" else _tasks.from_battles(path)


def _remove_if_empty(path: Path) -> None:
    for name in ("answers.jsonl", "judgements.jsonl"):
        file = path / name
        if file.is_file() and file.stat().st_size == 0:
            file.unlink()
    try:
        path.rmdir()
    except OSError:
        return  # something of value is in it
