"""`grkd eval`: a model's answers to benchmarks, judged and scored, stored so that a kill loses nothing."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grkd.benchmarks import Benchmark, Session, Settings, all_benchmarks, check_numbers, find
from grkd.console import console
from grkd.environment import command_line, environment
from grkd.errors import UserError
from grkd.evaluation.printing import print_results
from grkd.files import read_json, write_json
from grkd.run.device import device, dtype
from grkd.run.folder import RunFolder


def evaluate(settings: Settings, *, task: str | None = None) -> int:
    """Run the benchmarks and print their metrics. Returns 0, or 1 when judgements are missing (budget, failures).

    Written below settings.output: answers.jsonl and judgements.jsonl as they come, results/<task>.json, and
    evaluation.json over all tasks, including those of earlier commands with the same model. The same command again
    asks only for what is missing.
    With a file of finished judgements (Benchmark.from_file): only its metrics, as JSON on standard output; task: the
    benchmark that the user says it belongs to.
    Raises UserError for the user's mistakes.
    """
    for one in all_benchmarks().values():
        if one.from_file is not None and settings.option(one.from_file.name) is not None:
            print(json.dumps(_from_file(one, settings, task), indent=2))
            return 0
    chosen = check(settings)
    defaults = {option.name: option.default for one in chosen for option in one.options if option.default is not None}
    settings = replace(settings, own={**defaults, **settings.own})
    for benchmark in chosen:
        benchmark.check(settings)
    where = device(settings.model.device)
    folder = RunFolder(settings.output)
    existed = folder.path.exists()
    try:
        with folder.locked():
            session = Session(settings, folder.path, device=where, dtype=dtype(settings.model.dtype, where))
            session.check(judged=any(one.judged for one in chosen))
            results = _run(session, chosen)
    except UserError:
        if not existed:
            _remove_if_empty(folder.path)
        raise
    print_results(session.name, results)
    return 0 if all(result["complete"] for result in results.values()) else 1


def check(settings: Settings) -> list[Benchmark]:
    """The benchmarks asked for. Raises UserError for settings that do not fit together, before anything is loaded."""
    if settings.model.model is None:
        raise UserError("eval: name the model: grkd eval MODEL --tasks mt_bench ... (a folder, a hub name or a URL)")
    if not settings.tasks:
        raise UserError(f"eval: name the tasks: --tasks {','.join(all_benchmarks())} (one or more)")
    chosen = [find(name) for name in settings.tasks]
    judged = [one.name for one in chosen if one.judged]
    if judged and (settings.judge.judge is None or settings.judge.judge_model is None):
        raise UserError(f"--tasks {judged[0]} needs a judge: --judge URL --judge-model NAME")
    needing = [one for one in chosen if one.data_hint is not None]
    if needing and settings.data is None:
        raise UserError(
            f"--tasks {needing[0].name} needs the benchmark's files: --data DIR, with {needing[0].data_hint}"
        )
    if needing and settings.data is not None and not settings.data.is_dir():
        raise UserError(f"--data: no folder {settings.data}; it holds {', '.join(f'{one.name}/' for one in needing)}")
    check_numbers(settings)
    if settings.model.chat_template_kwargs:
        without = next((one.name for one in chosen if one.own_prompts), None)
        if without is not None or settings.model.model.startswith(("http://", "https://")):
            text = f"--tasks {without} renders its own prompts" if without else "a server renders its own prompts"
            raise UserError(f"--chat-template-kwargs: {text}; remove it")
    _check_own(settings, chosen)
    return chosen


def _check_own(settings: Settings, chosen: Sequence[Benchmark]) -> None:
    """Raises UserError for an option of a benchmark that is not among --tasks, or a number out of range."""
    taken = {option.name for one in chosen for option in one.options}
    for one in all_benchmarks().values():
        for option in one.options:
            value = settings.option(option.name)
            if value is None:
                continue
            if option.name not in taken:
                raise UserError(f"{option.flag} is an option of {one.name}, which is not among --tasks")
            if option.least is not None and value < option.least:
                raise UserError(f"{option.flag} must be {option.least} or more, got {value}")


def _run(session: Session, chosen: Sequence[Benchmark]) -> dict[str, Any]:
    earlier = _earlier(session)
    results: dict[str, Any] = {}
    shown = dict(earlier)
    for benchmark in chosen:
        name = benchmark.name
        if benchmark.judged and session.stopped:
            results[name] = {"complete": False, "stopped": session.stopped, "metrics": {}}
        else:
            results[name] = {"complete": True, **benchmark.run(session)}
        results[name]["limit"] = session.settings.limit
        shown[name] = results[name]
        if name in earlier and results[name].get("stopped"):  # what an earlier command found is worth more
            shown[name] = earlier[name]
        write_json(session.folder / "results" / f"{name}.json", shown[name])
        _summary(session, shown)
    if session.stopped:
        console.print(f"[yellow]{session.stopped}; run the same command again to resume[/yellow]", soft_wrap=True)
    return results


def _earlier(session: Session) -> dict[str, Any]:
    """The tasks of evaluation.json as an earlier command left it; none if it belongs to another model."""
    path = session.folder / "evaluation.json"
    if not path.exists():
        return {}
    found = read_json(path)
    tasks = found.get("tasks") if isinstance(found, dict) else None
    if not isinstance(tasks, dict) or not all(isinstance(one, dict) for one in tasks.values()):
        raise UserError(f"{path}: damaged, no result of grkd eval; delete it and repeat the command")
    return tasks if found.get("identity") == session.source.identity else {}


def _summary(session: Session, results: dict[str, Any]) -> None:
    """Write evaluation.json, after every task."""
    write_json(
        session.folder / "evaluation.json",
        {
            "model": session.name,
            "generator": session.generator,
            "identity": session.source.identity,
            "judge": next((one["judge"] for one in reversed(results.values()) if one.get("judge")), None),
            "tasks": results,
            "settings": session.settings.flat(),
            "environment": environment(command_line()),
        },
    )


def _from_file(benchmark: Benchmark, settings: Settings, task: str | None) -> dict[str, Any]:
    """Metrics of a file of finished judgements."""
    assert benchmark.from_file is not None
    if task not in (None, benchmark.name):
        raise UserError(f"--task {task} does not fit {benchmark.from_file.flag}, which is {benchmark.name}'s")
    if settings.model.model is not None or settings.tasks:
        raise UserError(f"eval: {benchmark.from_file.flag} needs no model; remove MODEL and --tasks")
    path = settings.option(benchmark.from_file.name)
    return {"task": benchmark.name, **benchmark.from_file.score(path, settings.data)}


def _remove_if_empty(path: Path) -> None:
    for name in ("answers.jsonl", "judgements.jsonl"):
        file = path / name
        if file.is_file() and file.stat().st_size == 0:
            file.unlink()
    try:
        path.rmdir()
    except OSError:
        return  # something of value is in it
