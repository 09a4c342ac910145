"""The section "Sampling" of docs/performance.md, from the result files: of each case and method the newest row.

python -m benchmarks.generation table
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- sampling: begin -->", "<!-- sampling: end -->"
_HEAD = (
    "| rows | method | tokens/s | times dynamic | of bandwidth | first call, s | peak MiB | first greedy equal |",
    "|---:|---|---:|---:|---:|---:|---:|---:|",
)


def results(folder: Path = ROOT / "benchmarks" / "results") -> list[dict[str, Any]]:
    """Of each model the newest of its files DATE-generation-MODEL.json, over the rows that only older ones have.

    Every row says its source: date, commit and command.
    """
    whole: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*-generation-*.json")):
        model, result = path.stem.split("-generation-")[1], json.loads(path.read_text(encoding="utf-8"))
        commit = [f"commit {result['commit']}"] if "commit" in result else []
        source = "; ".join([result["date"], *commit, f"`{result['command']}`"])
        rows = {(row["case"], row["impl"]): row for row in whole.get(model, {"rows": []})["rows"]}
        rows |= {(row["case"], row["impl"]): {**row, "source": source} for row in result["rows"]}
        whole[model] = {**result, "rows": list(rows.values())}
    return [whole[model] for model in sorted(whole)]


def sections(found: list[dict[str, Any]]) -> str:
    """Markdown: per result file where it was measured, and a table per model and setting."""
    return "\n\n".join(_section(result) for result in found)


def write_page() -> None:
    """Replace what stands between the marks."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{sections(results())}\n{END}{after}", encoding="utf-8")


def _section(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    source = [result["hardware"], versions, *dict.fromkeys(row["source"] for row in result["rows"])]
    rate = result["copy_gb_per_second"]
    copied = "" if rate is None else f" A large copy on this GPU moves {rate:,} GB/s."
    lines = [f"{'; '.join(source)}.{copied}", "", *_HEAD]
    by_batch: dict[str, dict[str, dict[str, Any]]] = {}
    for row in result["rows"]:
        by_batch.setdefault(row["case"], {})[row["impl"]] = row
    for case, methods in by_batch.items():
        base = methods.get("dynamic")
        lines += [_line(case, row, base) for row in methods.values()]
    settings = dict.fromkeys(_setting(case) for case in by_batch)
    return "\n".join([f"### {next(iter(settings)).split(',')[0]}", "", *(f"{name}." for name in settings), "", *lines])


def _line(case: str, row: dict[str, Any], base: dict[str, Any] | None) -> str:
    times = "" if base is None else f"{row['tokens_per_second'] / base['tokens_per_second']:.1f}"
    if base is not None and base["source"] != row["source"]:
        times += " \\*"
    equal = row.get("greedy_first_tokens_equal")
    cells = [
        case.rsplit("batch ", 1)[1],
        row["impl"],
        f"{row['tokens_per_second']:,.0f}",
        times,
        "" if row["bandwidth_share"] is None else f"{row['bandwidth_share']:.3f}",
        f"{row['first_seconds']:.2f}",
        "" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}",
        "" if equal is None else f"{equal:.3f}",
    ]
    return f"| {' | '.join(cells)} |"


def _setting(case: str) -> str:
    """A case without its rows and its number of prompts, which is as large."""
    parts = case.rsplit(", batch ", 1)[0].split(", ")
    return ", ".join(part.split(" ", 1)[1] if " prompts of " in part else part for part in parts)
