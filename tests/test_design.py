"""docs/design.md and CONTRIBUTING.md name the rooms that there are."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = {
    path.name + "/" * path.is_dir()
    for path in (ROOT / "src" / "grkd").iterdir()
    if (path.is_dir() and any(path.glob("*.py"))) or (path.suffix == ".py" and not path.stem.startswith("__"))
}


def test_the_tree_of_the_design_is_the_real_one() -> None:
    tree = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("```")[1]
    named = re.findall(r"^  (\S+)", tree, re.MULTILINE)
    assert sorted(named) == sorted(ROOMS)


def test_the_tour_passes_every_folder() -> None:
    tour = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## A tour of the rooms")[1].split("\n## ")[0]
    missing = {room for room in ROOMS if room.endswith("/") and f"`{room}`" not in tour}
    assert missing == {"demo/"}


def test_private_names_stay_in_their_room() -> None:
    """A test may look into the room that it tests; of the others it imports public names."""
    found = []
    for path in sorted((ROOT / "tests").glob("*/**/*.py")):
        room = path.relative_to(ROOT / "tests").parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("grkd."):
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                if parts[1] != room and any(part.startswith("_") for part in parts):
                    found.append(f"{path.relative_to(ROOT)}: {'.'.join(parts)}")
    assert found == []
