"""The section "Training at full size" of docs/performance.md, from the newest result file of each pair.

python -m benchmarks.full_size table
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- full size: begin -->", "<!-- full size: end -->"
_TITLES = {"gemma": "Gemma-2 9B to 2B", "llama": "Llama 3.1 8B to 3.2 3B"}
_HEAD = (
    "| case | ms a step | tokens/s | times the peer | of the floor, done | needed | peak GiB |",
    "|---|---:|---:|---:|---:|---:|---:|",
)


def results(folder: Path = ROOT / "benchmarks" / "results") -> list[dict[str, Any]]:
    """Of the files DATE-full-size-PAIR.json the newest of each pair, by pair."""
    newest = {path.stem.split("-full-size-")[1]: path for path in sorted(folder.glob("*-full-size-*.json"))}
    return [json.loads(newest[pair].read_text(encoding="utf-8")) for pair in sorted(newest)]


def tables(found: list[dict[str, Any]]) -> str:
    """Markdown: a table per pair, and where it was measured."""
    return "\n\n".join(_section(result) for result in found)


def write_page() -> None:
    """Replace what stands between the marks."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{tables(results())}\n{END}{after}", encoding="utf-8")


def _section(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    commands = dict.fromkeys(row["command"] for row in result["cases"].values())
    dates = " and ".join(sorted({row.get("date", result["date"]) for row in result["cases"].values()}))
    source = "; ".join([result["hardware"], versions, dates, *(f"`{command}`" for command in commands)])
    rate = result["product_flops_per_second"]
    product = "" if rate is None else f" A large product on this GPU runs at {rate / 1e12:,.0f} TFLOP/s."
    lines = [f"### {_TITLES[result['pair']]}", "", f"{source}.{product}", "", *_HEAD]
    lines += [_line(name, row, result["cases"]) for name, row in result["cases"].items()]
    if by_cudnn := [name for name, row in result["cases"].items() if "cudnn" in (row.get("attention") or "")]:
        lines += ["", f"With the extra `cudnn`, by cuDNN's attention: {', '.join(by_cudnn)}; no other case had it."]
    return "\n".join(lines + _where(result["cases"], result.get("earlier", {})))


def _where(cases: dict[str, dict[str, Any]], earlier: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Milliseconds of each kind of kernel, of the cases that were profiled; at the newest time that they were."""
    rows = {name: [*earlier.get(name, []), row] for name, row in cases.items()}
    profiled = {
        name: found[-1] for name, each in rows.items() if (found := [row["where"] for row in each if "where" in row])
    }
    if not profiled:
        return []
    kinds = sorted({kind for where in profiled.values() for kind in where}, key=lambda kind: _most(profiled, kind))
    head = ["", f"| ms a step of | {' | '.join(kinds)} |", f"|---{'|---:' * len(kinds)}|"]
    return head + [
        f"| {name} | {' | '.join(f'{where.get(kind, 0.0):,.1f}' for kind in kinds)} |"
        for name, where in profiled.items()
    ]


def _most(profiled: dict[str, dict[str, float]], kind: str) -> float:
    return -max(where.get(kind, 0.0) for where in profiled.values())


def _sitting(row: dict[str, Any]) -> tuple[str | None, str | None]:
    return row.get("command"), row.get("commit")


def _line(name: str, row: dict[str, Any], cases: dict[str, dict[str, Any]]) -> str:
    if "error" in row:
        return f"| {name} | {row['error'].replace('|', '/')[:120]} | | | | | |"
    peer = cases.get(row["against"] or "", {})
    times = f"{peer['step_ms'] / row['step_ms']:.2f} {row['against']}" if "step_ms" in peer else ""
    if times and _sitting(peer) != _sitting(row):
        times += " \\*"
    shares = [row["floor_share"][kind] for kind in ("done", "needed")]
    cells = [
        name,
        f"{row['step_ms']:,.0f}",
        f"{row['tokens_per_second']:,.0f}",
        times,
        *("" if share is None else f"{share:.3f}" for share in shares),
        "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"
