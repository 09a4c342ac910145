"""`grkd methods`: what there is to choose from."""

import argparse

from grkd import objectives
from grkd.console import Output

SUMMARY = "list the methods and their options"
DESCRIPTION = SUMMARY


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("name", nargs="?", help="show one method's formula and options")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    out = Output(highlight=False)
    if options.name:
        _one(out, options.name)
    else:
        _all(out)
    return 0


def _one(out: Output, name: str) -> None:
    """A method's formula and its options with their defaults."""
    from dataclasses import fields

    chosen = objectives.method(name)
    out.print(chosen.__doc__ or "", markup=False)
    for option in fields(chosen):
        kind = option.type.__name__ if isinstance(option.type, type) else str(option.type).replace("typing.", "")
        out.print(f"  {option.name}: {kind} = {option.default!r}", markup=False, soft_wrap=True)
    for form, meant in objectives.FORMS.get(name, {}).items():
        words = ", ".join(f"{option}: {value}" for option, value in meant.items()) or "the defaults"
        out.print(f"  form: {form} stands for {words}", markup=False, soft_wrap=True)


def _all(out: Output) -> None:
    """Every method in one line, from the first lines of their files: none is imported."""
    from rich.table import Table

    table = Table("method", "what it is", show_lines=True)
    for name, summary in objectives.summaries().items():
        table.add_row(name, summary)
    out.print(table)
    out.print("grkd methods NAME shows a method's formula and the defaults of its options.")
