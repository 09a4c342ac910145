"""A real retrieval set out of what is installed: find a function's description by its one-line summary."""

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from grkd.files import write_text

PACKAGES = ("sklearn", "scipy", "numpy", "torch")  # dependencies of grkd, so that they are there
_LEAST_WORDS, _MOST_WORDS = 30, 120  # of a description; longer ones are cut
_DOCUMENTS = 2_000
_HEADING = re.compile(r"^[-=~^]{3,}\s*$|^\.\. .*$|^>>>.*$|^\s*:[a-z]+ .*$", re.MULTILINE)


def write_documentation_set(folder: Path) -> None:
    """Write corpus.jsonl, queries.jsonl and qrels.tsv into the folder, as `data.folder` reads them.

    A query is the first paragraph of a docstring, its relevant document the rest of the same docstring. Functions and
    classes of the packages' source files, none is imported; which 2,000 are taken depends on their names alone.
    """
    found = {name: (query, text) for package in PACKAGES for name, query, text in described(package)}
    once: dict[str, str] = {}
    for name, (query, _) in sorted(found.items()):
        once.setdefault(query, name)
    names = sorted(once.values(), key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:_DOCUMENTS]
    corpus = [json.dumps({"_id": name, "text": found[name][1]}) for name in names]
    queries = [json.dumps({"_id": name, "text": found[name][0]}) for name in names]
    write_text(folder / "corpus.jsonl", "\n".join(corpus) + "\n")
    write_text(folder / "queries.jsonl", "\n".join(queries) + "\n")
    judged = [f"{name}\t{name}\t1" for name in names]
    write_text(folder / "qrels.tsv", "\n".join(["query\tdocument\tgrade", *judged]) + "\n")


def described(package: str) -> Iterator[tuple[str, str, str]]:
    """(name, summary, description) of a package's public functions and classes."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return
    root = Path(spec.origin).parent
    for path in sorted(root.rglob("*.py")):
        if any(part in ("tests", "testing", "_inductor", "test") for part in path.parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        module = ".".join(path.relative_to(root.parent).with_suffix("").parts)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                parts = split_docstring(ast.get_docstring(node) or "")
                if parts is not None:
                    yield f"{module}.{node.name}", *parts


def split_docstring(text: str) -> tuple[str, str] | None:
    """The first paragraph and the words of the rest; None if either says too little."""
    summary, _, rest = text.partition("\n\n")
    summary = " ".join(summary.replace("`", "").split())
    words = _HEADING.sub(" ", rest).replace("`", "").split()
    if not 4 <= len(summary.split()) <= 30 or len(words) < _LEAST_WORDS:
        return None
    return summary, " ".join(words[:_MOST_WORDS])
