"""One self-contained HTML page for one or more runs: no network, every text escaped, one script known by its hash."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from grkd.files import write_text
from grkd.reports._agreement import agreement_view, token_agreement_view
from grkd.reports._class_view import class_view
from grkd.reports._cost_view import cost_view
from grkd.reports._crossing_view import crossing_view
from grkd.reports._drawing import Drawing
from grkd.reports._group_view import groups_view
from grkd.reports._notices import notices
from grkd.reports._query_view import query_view
from grkd.reports._svg import variable_of
from grkd.reports.evaluation_report import EvaluationReport, paired_view
from grkd.reports.figures import draw, palette
from grkd.reports.outcome import outcome
from grkd.reports.queries import compare_queries
from grkd.reports.results import BEFORE, TEACHER, Run, Sample
from grkd.reports.search import search_view
from grkd.reports.summary import Summary, summarise
from grkd.reports.table_formats import shown
from grkd.reports.tables import DASH, cost, costs, duration, footnotes, header, name_of, show
from grkd.reports.verdict import verdict

_TASKS = {"language_model": "language model", "classifier": "classifier", "rank": "ranker"}
_VERSIONS = ("grkd", "python", "torch", "transformers")
_MACHINE = ("gpu", "cpu", "platform", "git_commit", "date")
_NAMES = {"gpu": "GPU", "cpu": "CPU", "platform": "platform", "git_commit": "git commit", "date": "date"}


def write_page(runs: Sequence[Run], path: Path, *, evaluations: EvaluationReport | None = None) -> None:
    """Write the report of these runs as one HTML file. The same runs give the same bytes.

    evaluations: the benchmarks' table and paired comparisons, a section after the runs.
    """
    places = palette(runs)
    title = runs[0].title if len(runs) == 1 else f"{len(runs)} runs"
    names = ("page.html.j2", "page.css", "page.js")
    source, style, script = (files("grkd.reports").joinpath(name).read_text(encoding="utf-8") for name in names)
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(source)
    text = template.render(
        title=title,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        facts=_header_facts(runs),
        runs=[_run_view(run, places, f"run-{place}") for place, run in enumerate(runs, start=1)],
        evaluations=_evaluations_view(evaluations),
    )
    # A model can emit half of a surrogate pair, which no UTF-8 file can hold.
    write_text(path, text.encode("utf-8", "replace").decode("utf-8"))


def _header_facts(runs: Sequence[Run]) -> list[str]:
    """The date (the newest), the versions and the machine, each once."""
    dates = sorted(str(run.environment["date"]) for run in runs if run.environment.get("date"))
    facts = [dates[-1][:16].replace("T", " ")] if dates else []  # to the minute
    for key in _VERSIONS:
        facts += [f"{key} {value}" for value in _values(runs, key)]
    return [*facts, *(_values(runs, "gpu") or _values(runs, "cpu"))]


def _values(runs: Sequence[Run], key: str) -> list[str]:
    return list(dict.fromkeys(str(run.environment[key]) for run in runs if run.environment.get(key)))


def _run_view(run: Run, places: Mapping[str, int], anchor: str) -> dict[str, Any]:
    """Everything that the template shows of one run, as plain values."""
    summary = summarise(run)
    drawings = draw(run, places=places, prefix=anchor)
    return {
        "anchor": anchor,
        "title": run.title,
        "task": _TASKS.get(run.task or "", "run"),
        "verdict": verdict(summary),
        "paired": paired_view(compare_queries(run)) if run.task == "rank" else None,
        "picture": _section("Verdict", drawings)["figures"],
        "outcome": outcome(run, summary),
        "notices": notices(run, summary),
        "missing": run.missing,
        "failures": run.failures,
        "tiles": _tiles(run),
        "counts": [(f"{count:,}", _counted(name)) for name, count in run.counts.items()],
        "table": _table(summary, places),
        "notes": footnotes(summary),
        "costs": cost_view(run, summary, places),
        "sections": [_section("Results", drawings), _section("Training", drawings)],
        "search": search_view(run, summary),
        "agreement": agreement_view(run.folder),
        "token_agreement": token_agreement_view(run.folder),
        "crossing": crossing_view(run),
        "groups": groups_view(run, places),
        "classes": class_view(run, places),
        "queries": query_view(run, places),
        "samples": [_sample_view(sample, places) for sample in run.samples],
        "command": run.environment.get("command"),
        "recipe": run.recipe,
        "arguments": run.arguments,
        "machine": {_NAMES[key]: str(run.environment[key]) for key in _MACHINE if run.environment.get(key)},
    }


def _section(name: str, drawings: Sequence[Drawing]) -> dict[str, Any]:
    chosen = [drawing for drawing in drawings if drawing.section == name.lower()]
    notes = list(dict.fromkeys(drawing.note for drawing in chosen if drawing.note))
    return {
        "name": name,
        "notes": [note for note in notes if not any(note in other for other in notes if other != note)],
        # matplotlib has escaped the text inside its SVG.
        "figures": [{"title": one.title, "caption": one.caption, "svg": Markup(one.svg)} for one in chosen],
    }


def _tiles(run: Run) -> list[tuple[str, str]]:
    """(number, what it counts): what is large or was asked for; all counts of the stages stand below the table."""
    tiles = [(str(len(run.labels)), "method" if len(run.labels) == 1 else "methods")] if run.labels else []
    seeds = max((len(run.seeds(label)) for label in run.labels), default=0)
    if seeds:
        tiles.append((str(seeds), "seed" if seeds == 1 else "seeds"))
    # Every metric of a training repeats its time: once per label and seed.
    if seconds := {(row.method, row.seed): row.seconds for row in run.rows if row.seconds is not None}:
        tiles.append((duration(sum(seconds.values())), "training, all methods"))
    sizes = [(name, count) for name, count in run.counts.items() if name.endswith(("_train", "_heldout"))]
    return tiles + [(f"{count:,}", _counted(name)) for name, count in sizes[:4]]


def _counted(name: str) -> str:
    """A count's name in words: prompts_heldout -> held-out prompts."""
    for end, word in (("_train", "training"), ("_heldout", "held-out")):
        if name.endswith(end):
            name = f"{word} {name.removesuffix(end)}"
    return name.replace("_", " ")


def _table(summary: Summary, places: Mapping[str, int]) -> dict[str, Any] | None:
    if not summary.lines:
        return None
    return {
        # The unit may stand in a line of its own.
        "headers": [*(header(metric).replace("\u00a0(", " (") for metric in summary.metrics), *costs(summary)],
        "lines": [
            {
                "name": name_of(line.label),
                "kind": line.kind,
                "colour": variable_of(line.label, places),
                "cells": [show(line.cells[metric.name], metric, summary) for metric in summary.metrics],
                "costs": [cost(line, name) for name in costs(summary)],
            }
            for line in summary.lines
        ],
        "dash": DASH,
    }


def _evaluations_view(found: EvaluationReport | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "headers": [column.title for column in found.table.columns],
        "rows": [{"label": row.label, "cells": shown(row), "from_paper": row.from_paper} for row in found.table.rows],
        "notes": found.table.notes,
        "paired": paired_view(found.paired),
    }


def _sample_view(sample: Sample, places: Mapping[str, int]) -> dict[str, Any]:
    order = [label for label in (TEACHER, BEFORE, *places) if label in sample.answers]
    order += [label for label in sample.answers if label not in order]
    return {
        "prompt": sample.prompt,
        "turns": [{"role": str(one.get("role", "")), "text": _said(one)} for one in sample.messages],
        "answers": [
            {
                "name": name_of(label),
                "colour": variable_of(label, places) if label in places or label in (BEFORE, TEACHER) else "--line",
                "text": sample.answers[label],
                "cut": label in sample.cut,
            }
            for label in order
        ],
    }


def _said(message: Mapping[str, Any]) -> str:
    """A message's text, and the calls of tools in it as JSON."""
    calls = message.get("tool_calls")
    parts = [str(message.get("content") or ""), json.dumps(calls, ensure_ascii=False, indent=1) if calls else ""]
    return "\n".join(part for part in parts if part)
