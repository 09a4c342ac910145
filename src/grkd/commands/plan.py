"""`grkd plan`: what a run takes, and what it can show, before it begins."""

import argparse
from pathlib import Path

SUMMARY = "estimate memory, time, disk, cost and statistical power of a run"
DESCRIPTION = """\
Estimate what a run needs: memory of a training step by part, tokens, steps, time per stage, disk, and requests to
endpoints. Also print the smallest difference that the run's seeds and questions can detect. Times are measured by a
miniature of the run (a few prompts, eight steps per method) in a temporary folder.

  grkd plan recipe.yaml
  grkd plan recipe.yaml training.batch_size=4 seeds=[0,1,2,3,4]
  grkd plan recipe.yaml --quick                           # from configs and data only: no times, no weights
  grkd plan recipe.yaml --prices 0.5,1.5 --gpu-price 2.5  # USD per million tokens read and written; per hour
  grkd plan recipe.yaml --from runs/earlier               # power from the spread between seeds of an earlier run
  grkd plan recipe.yaml --json > plan.json
"""


def declare(command: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    command.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    command.add_argument("overrides", nargs="*", metavar="key=value", help="change a setting of the recipe")
    add = command.add_argument
    add("--quick", action="store_true", help="measure nothing: only memory, steps, disk and power")
    add("--prices", metavar="READ,WRITTEN", help="USD per million tokens that an endpoint reads and writes")
    add("--gpu-price", type=float, metavar="USD", help="price of this machine in USD per hour")
    add("--from", type=Path, dest="earlier", metavar="RUN", help="an earlier run, for the spread between seeds")
    add("--ask", action="store_true", help="measure even if this sends a few requests to an endpoint (may cost money)")
    add("--json", action="store_true", help="print the plan as JSON, in bytes and seconds")


def run(options: argparse.Namespace) -> int:
    """Exit status of the command."""
    import json

    from grkd import recipe

    read, prices = recipe.read(options.recipe, options.overrides), _prices(options.prices)
    from grkd.console import Output
    from grkd.pipeline.check import check_recipe
    from grkd.planning.make import make_plan
    from grkd.planning.plan import tables

    check_recipe(read)
    if options.earlier is not None:
        from grkd.planning.earlier import spread_of

        spread_of(options.earlier, questions=1)  # a mistake is known before anything is measured
    plan = make_plan(
        read,
        measured=not options.quick,
        prices=prices,
        hourly_usd=options.gpu_price,
        ask=options.ask,
        earlier=options.earlier,
    )
    if options.json:
        print(json.dumps(plan.as_json(), indent=1))
        return 0
    output = Output()
    for part in tables(plan):
        output.print(part, soft_wrap=isinstance(part, str), markup=False)
    return 0


def _prices(text: str | None) -> tuple[float, float] | None:
    from grkd.errors import UserError

    if text is None:
        return None
    try:
        one, other = map(float, text.split(","))
    except ValueError:
        raise UserError(f"--prices: expected two numbers such as 0.5,1.5, got {text!r}") from None
    return one, other
