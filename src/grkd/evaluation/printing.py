"""The figures of an evaluation on standard output."""

from typing import Any

from rich.table import Table

from grkd.console import Output


def print_results(model: str, results: dict[str, Any]) -> None:
    """One row a figure, and below the table what the reader must know about each task."""
    out = Output(highlight=False)
    table = Table("task", "figure", "value", "95 % interval", "whole", title=model, title_justify="left")
    for task, result in results.items():
        whole = "yes" if result["complete"] else f"no: {result.get('judged', 0)} of {result.get('to_judge', '?')}"
        for name, figure in (result.get("metrics") or {"-": {}}).items():
            bounds = [_text(figure.get(bound)) for bound in ("low", "high")]
            table.add_row(task, name, _text(figure.get("value")), "" if "-" in bounds else " to ".join(bounds), whole)
    out.print(table)
    for task, result in results.items():
        for line in _remarks(result):
            out.print(f"{task}: {line}", markup=False, soft_wrap=True)


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}".rstrip("0").rstrip(".")


def _remarks(result: dict[str, Any]) -> list[str]:
    lines = []
    if result.get("unparsable"):
        lines.append(f"{result['unparsable']} judgements could not be read and count nowhere")
    if result.get("too_long"):
        lines.append(f"{result['too_long']} prompts did not fit the model's context; their answers are empty")
    failures = result.get("failures") or {}
    if failures:
        name, reason = next(iter(failures.items()))
        lines.append(f"{len(failures)} judgements got no answer (first: {name}: {reason})")
    if result.get("stopped"):
        lines.append(f"{result['stopped']}; the same command goes on")
    lines += [result[name] for name in ("length_controlled_note", "note") if result.get(name)]
    return lines
