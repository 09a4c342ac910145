"""`grkd methods`: what there is to choose from."""

import argparse
from typing import Any

from grkd import objectives
from grkd.console import Output

SUMMARY = "list methods, or one method's options"
DESCRIPTION = SUMMARY


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("name", nargs="?", help="show this method's formula and options")
    command.add_argument("--markdown", action="store_true", help="print the documentation's tables of methods")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    out = Output(highlight=False)
    if options.markdown:
        print(objectives.method_table("learns_from"), objectives.method_table("minimises", "source"), sep="\n", end="")
    elif options.name is not None:
        _one(out, options.name)
    else:
        _all(out)
    return 0


def _one(out: Output, name: str) -> None:
    """A method's formula, its options with defaults and meaning, and its presets and parts."""
    chosen = objectives.method(name)
    out.print(chosen.__doc__ or "", markup=False)
    options = [option for key, option in chosen.options({}).items() if "." not in key]
    if options:
        _table(out, options)
    else:
        out.print("This method has no options.")
    if "preset" in chosen.options({}):
        _composition(out)


def _composition(out: Output) -> None:
    """What grkd may be composed of: presets, and the parts with their options."""
    from grkd.objectives import parts

    for preset, composition in objectives.PRESETS.items():
        out.print(f"preset: {preset}", markup=False, style="bold")
        for key, value in composition.items():
            out.print(f"  {key}: {_written(value)}", markup=False, soft_wrap=True)
    for part in parts.names():
        kind = parts.part(part)
        out.print(f"\npart: {part}  {(kind.__doc__ or '').splitlines()[0]}", markup=False, soft_wrap=True)
        _table(out, list(objectives.options_of(kind).values()))
    out.print(
        "Set an option of a part by its path: pairs.tau for all parts of this name, anchor.soft_target.temperature for "
        "those in one list."
    )


def _table(out: Output, options: list[Any]) -> None:
    from rich.table import Table

    table = Table("option", "default", "meaning")
    for option in options:
        table.add_row(option.name, _written(option.default), option.help)
    out.print(table)


def _written(value: Any) -> str:
    """A value as recipes write it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if hasattr(value, "short_name"):
        from grkd.objectives import parts

        return _written(parts.to_plain(value))
    return str(value)


def _all(out: Output) -> None:
    """Every method in one line, from the first lines of their files: none is imported."""
    from rich.table import Table

    table = Table("method", "what it is", show_lines=True)
    for name, summary in objectives.summaries().items():
        table.add_row(name, summary)
    out.print(table)
    out.print("grkd methods NAME shows a method's formula, options and defaults.")
