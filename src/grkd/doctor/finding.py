"""A finding of the doctor: how bad, what it is, what to do."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from rich.table import Table

Severity = Literal["error", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}


@dataclass(frozen=True)
class Finding:
    """error: the run would fail or its result mean nothing; warning: it is likely to be worse; note: good to know.

    check: a short name, the same in every version. do: what to change.
    """

    severity: Severity
    check: str
    text: str
    do: str


error, warning, note = (partial(Finding, severity) for severity in _ORDER)


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def exit_status(findings: Sequence[Finding]) -> int:
    """1 if anything is an error, else 0."""
    return int(any(finding.severity == "error" for finding in findings))


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    return [asdict(finding) for finding in worst_first(findings)]


def table(findings: Sequence[Finding]) -> Table:
    """The findings for a terminal, the worst first."""
    shown = Table(show_lines=True)
    for name in ("", "check", "finding", "what to do"):
        shown.add_column(name, overflow="fold")
    for finding in worst_first(findings):
        colour = _COLOURS[finding.severity]
        shown.add_row(f"[{colour}]{finding.severity}[/{colour}]", finding.check, finding.text, finding.do)
    return shown
