"""Write the table and the plot of docs/kernels.md from the newest result file.

python -m benchmarks.kernels_table
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, PLOT = ROOT / "docs" / "kernels.md", ROOT / "docs" / "kernels.svg"
BEGIN, END = "<!-- kernels: begin -->", "<!-- kernels: end -->"


def table(result: dict[str, Any]) -> str:
    """Markdown: where it was measured, then one row an implementation."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    lines = [
        f"{result['hardware']}; {versions}; {result['date']}; `{result['command']}`.",
        "",
        "| case | implementation | ms | of the floor | peak MiB | gradient error |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        error = "" if row["grad_error"] is None else f"{row['grad_error']:.1e}"
        share = f"{row['ms'] / row['floor_ms']:.2f}x"
        lines.append(f"| {row['case']} | {row['impl']} | {row['ms']:.2f} | {share} | {row['peak_mib']:.0f} | {error} |")
    return "\n".join([*lines, "", *[f"- {note}" for note in result.get("notes", [])]])


def plot(result: dict[str, Any]) -> None:
    """Time over the floor of each implementation, one panel a case."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "kernels"
    from matplotlib import pyplot

    cases = list(dict.fromkeys(row["case"] for row in result["rows"]))
    figure, axes = pyplot.subplots(len(cases), 1, figsize=(8, 2.4 * len(cases)), layout="constrained")
    for axis, case in zip(axes, cases, strict=True):
        rows = [row for row in result["rows"] if row["case"] == case][::-1]
        colours = ["tab:blue" if row["impl"].startswith("grkd") else "tab:gray" for row in rows]
        axis.barh([row["impl"] for row in rows], [row["ms"] for row in rows], color=colours)
        axis.axvline(rows[0]["floor_ms"], color="black", linestyle="--", linewidth=1)
        axis.set_xscale("log")
        axis.set_title(f"{case} (dashed: floor)", fontsize=9)
        axis.tick_params(labelsize=8)
    axes[-1].set_xlabel("milliseconds, forward and backward")
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    newest = max((ROOT / "benchmarks" / "results").glob("*-kernels.json"))
    result = json.loads(newest.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table(result)}\n{END}{after}", encoding="utf-8")
    plot(result)


if __name__ == "__main__":
    main()
