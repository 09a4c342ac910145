"""Keep a demo's results in the repository, and write the README's tables from them.

python -m benchmarks.demo_results keep runs/demo    copies results, settings and environment here, then:
python -m benchmarks.demo_results write             writes the tables between the markers of README.md
"""

import shutil
import sys
from pathlib import Path

from grkd.files import read_json, write_json, write_text
from grkd.reports import markdown_table, read_run

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "results" / "demo"
PARTS = ("language_model", "classifier")
FILES = ("results.json", "recipe.yaml", "environment.json")
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
    """README.md with its tables made anew."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{tables()}{END}{rest.split(END)[1]}"


def main(words: list[str]) -> None:
    if words[:1] == ["keep"]:
        keep(Path(words[1]))
    path = ROOT / "README.md"
    write_text(path, readme(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(sys.argv[1:])
