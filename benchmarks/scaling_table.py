"""The section "Several GPUs" of docs/performance.md, from the newest result file.

python -m benchmarks.scaling table
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- scaling: begin -->", "<!-- scaling: end -->"
_HEAD = (
    "| pair | training | GPUs | ms/step | tokens/s | weak scaling | GiB/GPU |",
    "|---|---|---:|---:|---:|---:|---:|",
)


def write_page() -> None:
    """Replace what stands between the marks."""
    newest = sorted((ROOT / "benchmarks" / "results").glob("*-scaling.json"))[-1]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    text = sections(json.loads(newest.read_text(encoding="utf-8")))
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def sections(result: dict[str, Any]) -> str:
    """Markdown: where it was measured, and a row per case.

    weak scaling: tokens/s on n GPUs over n times those of one GPU with the same weights and program; FSDP2's one GPU is
    that of DDP, which there wraps nothing, also where FSDP2 of one was measured.
    """
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    names = ("hardware", "date", "commit", "command")
    runs = dict.fromkeys(tuple(row[name] for name in names) for row in result["rows"])
    said = [f"{hardware}, {date}, commit {commit}: `{command}`" for hardware, date, commit, command in runs]
    rows = sorted(result["rows"], key=lambda row: (row["pair"], row["gpus"]))
    alone = {(row["pair"], row["case"]): row for row in rows if row["gpus"] == 1}
    return "\n".join([f"{versions}. {'; '.join(said)}.", "", *_HEAD, *(_line(row, alone) for row in rows)])


def _line(row: dict[str, Any], alone: dict[tuple[str, str], dict[str, Any]]) -> str:
    whole = row["case"].replace("FSDP2", "DDP").replace(", teacher sharded", "")
    one = alone.get((row["pair"], whole))
    share = "" if one is None else f"{row['tokens_per_second'] / (row['gpus'] * one['tokens_per_second']):.2f}"
    case = row["case"].replace(", DDP", "") if row["gpus"] == 1 else row["case"]
    limit = (
        f" of {row['limit_gib_per_gpu']} allowed; teacher {row['teacher_gib']}" if "limit_gib_per_gpu" in row else ""
    )
    cells = [row["pair"], case, str(row["gpus"]), f"{row['step_ms']:,.0f}", f"{row['tokens_per_second']:,}"]
    return "| " + " | ".join([*cells, share if row["gpus"] > 1 else "", f"{row['peak_gib_per_gpu']}{limit}"]) + " |"
