"""Keep a demo's results in the repository, and write the README's tables from them.

python -m benchmarks.demo_results keep runs/demo    copies results, settings and environment here, then:
python -m benchmarks.demo_results write             writes the tables of README.md and docs/report.svg
"""

import re
import shutil
import sys
from html import escape
from importlib.resources import files
from pathlib import Path

from grkd.files import read_json, write_json, write_text
from grkd.reports import markdown_table, read_run
from grkd.reports.figures import draw

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "results" / "demo"
PARTS = ("language_model", "classifier")
FILES = ("results.json", "recipe.yaml", "environment.json")
PICTURED = {"language_model": ("Forward KL", "Kendall tau"), "classifier": ("Accuracy", "Kendall tau")}  # by title
BEGIN, END = "<!-- demo tables: begin -->", "<!-- demo tables: end -->"


def keep(demo: Path) -> None:
    """Copy what the tables need, and nothing that names a place on this machine."""
    for part in PARTS:
        target = KEPT / part
        target.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            shutil.copyfile(demo / part / name, target / name)
        recipe = (target / "recipe.yaml").read_text(encoding="utf-8")
        write_text(target / "recipe.yaml", without_places(recipe))
        kept = read_json(target / "environment.json")
        write_json(target / "environment.json", {name: kept[name] for name in kept if name != "platform"})


def without_places(recipe: str) -> str:
    """A run's recipe without the lines that hold paths."""
    return "".join(line for line in recipe.splitlines(keepends=True) if "/" not in line)


def tables() -> str:
    """The Markdown between the markers."""
    parts = []
    for part in PARTS:
        run, environment = read_run(KEPT / part), read_json(KEPT / part / "environment.json")
        made = f"{environment['date'][:10]}, {environment['cpu']}, PyTorch {environment['torch']}"
        parts.append(f"**{run.title}** ({made}; from `benchmarks/results/demo/{part}/`)\n\n{markdown_table(run)}")
    return "\n".join(parts)


def readme(text: str) -> str:
    """README.md with its tables rebuilt."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{tables()}{END}{rest.split(END)[1]}"


def picture() -> str:
    """Figures of the report's page, two per part, as one SVG in the page's light colours."""
    page = files("grkd.reports").joinpath("page.css").read_text(encoding="utf-8")
    colours = dict(reversed(re.findall(r"(--[\w-]+): (#\w+)", page)))  # the light ones stand first
    width, room, inside, top = 340, 30, [], 0
    for part in PARTS:
        run = read_run(KEPT / part)
        drawings = [one for one in draw(run, prefix=part) if one.title in PICTURED[part]]
        inside.append(_text(run.title, 12, top + 20, "bold"))
        boxes = [re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', one.svg) for one in drawings]
        sizes = [(float(box[1]), float(box[2])) for box in boxes if box is not None]
        for column, (drawing, (wide, high)) in enumerate(zip(drawings, sizes, strict=True)):
            place = f'x="{12 + column * width}" y="{top + room + 18}" width="{wide:g}" height="{high:g}"'
            inside.append(_text(drawing.title, 12 + column * width, top + room + 12, "normal"))
            inside.append(drawing.svg.replace("<svg ", f"<svg {place} ", 1))
        top += room + 30 + int(max(high for _, high in sizes))
    size = f'viewBox="0 0 {2 * width} {top}" width="{2 * width}" height="{top}"'
    look = 'font-family="system-ui, sans-serif" font-size="12"'
    ground = f'<rect width="100%" height="100%" rx="10" fill="{colours["--card"]}"/>'
    text = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {look}>\n{ground}\n' + "\n".join(inside) + "\n</svg>\n"
    return re.sub(r"var\((--[\w-]+)\)", lambda found: colours[found[1]], text)


def _text(words: str, x: int, y: int, weight: str) -> str:
    return f'<text x="{x}" y="{y}" font-weight="{weight}" fill="var(--ink)">{escape(words)}</text>'


def main(words: list[str]) -> None:
    if words[:1] == ["keep"]:
        keep(Path(words[1]))
    path = ROOT / "README.md"
    write_text(path, readme(path.read_text(encoding="utf-8")))
    write_text(ROOT / "docs" / "report.svg", picture())


if __name__ == "__main__":
    main(sys.argv[1:])
