"""The metrics of an evaluation on standard output."""

from typing import Any

from rich.table import Table

from grkd.console import Output


def print_results(model: str, results: dict[str, Any]) -> None:
    """One row per metric, and below the table what the reader must know about each task."""
    out = Output(highlight=False)
    table = Table("task", "metric", "value", "95 % interval", "complete", title=model, title_justify="left")
    for task, result in results.items():
        complete = "yes" if result["complete"] else f"no: {result.get('judged', 0)} of {result.get('to_judge', '?')}"
        for name, found in (result.get("metrics") or {"-": {}}).items():
            bounds = [_text(found.get(bound)) for bound in ("low", "high")]
            interval = "" if "-" in bounds else " to ".join(bounds)
            table.add_row(task, name, _text(found.get("value")), interval, complete)
    out.print(table)
    for task, result in results.items():
        for line in notes(result):
            out.print(f"{task}: {line}", markup=False, soft_wrap=True)


def notes(result: dict[str, Any]) -> list[str]:
    """What the reader must know about one result: what is missing, and what it may not be compared with."""
    lines = []
    if result.get("unparsable"):
        lines.append(f"{result['unparsable']} judgements could not be parsed and are not counted")
    if result.get("too_long"):
        lines.append(f"{result['too_long']} prompts did not fit the model's context; their answers are empty")
    failures = result.get("failures") or {}
    if failures:
        name, reason = next(iter(failures.items()))
        lines.append(f"{len(failures)} judgements failed (first: {name}: {reason})")
    if result.get("stopped"):
        lines.append(f"{result['stopped']}; run the same command again to resume")
    lines += [result[name] for name in ("length_controlled_note", "note") if result.get(name)]
    return lines


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}".rstrip("0").rstrip(".")
