"""Benchmarks by the name of their file, or as `package.module:OBJECT`."""

import importlib
import pkgutil
from functools import cache

from grkd import benchmarks
from grkd.benchmarks._benchmark import Benchmark
from grkd.errors import UserError, nearest
from grkd.imports import imported


@cache
def all_benchmarks() -> dict[str, Benchmark]:
    """Every benchmark of this folder by name: each file without a leading underscore exports one as BENCHMARK."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_")]
    found = [importlib.import_module(f"grkd.benchmarks.{name}").BENCHMARK for name in names]
    return {one.name: one for one in sorted(found, key=lambda one: (one.order, one.name))}


def find(name: str) -> Benchmark:
    """The benchmark of that name, or the object that `package.module:OBJECT` names.

    Raises UserError for a name that is not there, a module that cannot be imported, or an object of another kind.
    """
    known = all_benchmarks()
    if name in known:
        return known[name]
    if name.startswith("lm_eval:"):
        from grkd.benchmarks.lm_eval import task

        return task(name)
    if ":" not in name:
        near = nearest(name, known)
        hint = f"did you mean {near}? " if near else ""
        raise UserError(
            f"--tasks: no task {name!r}; {hint}there are {', '.join(known)}, or your own as package.module:OBJECT"
        )
    try:
        made = imported(name)
    except UserError as error:
        raise UserError(f"--tasks: {error}") from None
    if not isinstance(made, Benchmark):
        raise UserError(f"--tasks: {name!r} is a {type(made).__name__}, not a grkd.benchmarks.Benchmark")
    if made.name in known:
        raise UserError(f"--tasks: {name!r} is named {made.name!r} like a benchmark of grkd; give it another name")
    return made


def title_of(name: str) -> str:
    """A benchmark's title by its name in result files; the name itself for one that is not in this folder."""
    known = all_benchmarks()
    return known[name].title if name in known else name.removeprefix("lm_eval:")
