"""Every package that the source imports is declared in pyproject.toml, and what is declared is used."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Extras for users; test, lint and docs are for the project's own developers.
EXTRAS = [name for name in PROJECT["optional-dependencies"] if name not in ("test", "lint", "docs", "dev")]
# Declared for a reason other than an import of ours.
ONLY_DECLARED = {"gguf", "setuptools", "grkd", "alpaca-eval"}
# Modules whose distribution has another name, and which the tests' environment has not.
OTHER_NAMES = {"cudnn": "nvidia-cudnn-frontend"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0]) for requirement in requirements}


@cache
def imported() -> dict[str, set[str]]:
    """Distribution -> the files that import it."""
    installed = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "src" / "grkd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for top in {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"grkd"}:
                distribution = normal(installed.get(top, [OTHER_NAMES.get(top, top)])[0])
                found.setdefault(distribution, set()).add(str(path.relative_to(ROOT)))
    return found


def test_what_is_imported_is_declared() -> None:
    declared = named(PROJECT["dependencies"])
    for extra in EXTRAS:
        declared |= named(PROJECT["optional-dependencies"][extra])
    undeclared = {name: sorted(files)[0] for name, files in imported().items() if name not in declared}
    assert undeclared == {}


def test_what_is_declared_is_imported() -> None:
    declared = named(PROJECT["dependencies"]).union(*(named(PROJECT["optional-dependencies"][name]) for name in EXTRAS))
    assert declared - set(imported()) - ONLY_DECLARED == set()


def test_the_package_says_what_it_is() -> None:
    classifiers = PROJECT["classifiers"]
    assert "Typing :: Typed" in classifiers
    assert "Programming Language :: Python :: 3.11" in classifiers
    assert len(PROJECT["keywords"]) > 4
