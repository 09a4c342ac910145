"""The order of responses that records give: whether a GRKDTrainer's method uses it, and has the one that it needs."""

from collections.abc import Sequence

from rich.markup import escape

from grkd import objectives
from grkd.console import console
from grkd.data.language import Group
from grkd.data.prompts import Example
from grkd.errors import UserError
from grkd.objectives import Objective
from grkd.objectives.order_alone import cannot_use, leaves_level_open
from grkd.training.grkd_config import GRKDConfig


def check_order_used(examples: Sequence[Example], objective: Objective, args: GRKDConfig, where: str) -> None:
    """One line if the method has no use for the records' order of responses.

    Raises UserError if it needs more than an order, or leaves open whether it compares tokens or responses.
    """
    words, given = "", {key for key in ("teacher_scores", "order") for each in examples if _gives(each, key)}
    if "order" in given:
        words = cannot_use(objective)
    if "teacher_scores" in given and objectives.method(args.method) is type(objective):  # else an `objective=`
        words = words or leaves_level_open(objective, args.method_options or {})
    if words:
        raise UserError(f"{where}: {args.method} {words}")
    if given and "response" not in objective.levels:
        named = "teacher_scores" if "teacher_scores" in given else "best, order, tiers, beats or chosen and rejected"
        text = f"compares no responses, so their order ({named}) is not used and all are learnt alike"
        console.print(f"[yellow]{escape(f'{where}: {_name(objective, args)} {text}')}[/yellow]", soft_wrap=True)


def check_order_given(groups: Sequence[Group], objective: Objective, args: GRKDConfig, where: str) -> None:
    """Raises UserError if the method compares responses and no group to train on has two in an order; for an evaluation
    one line, since what is measured on tokens stays right."""
    if "response" not in objective.levels or any(group.has_pair for group in groups):
        return
    missing = "no record has responses in an order"
    if where == "train_dataset":
        give = "give teacher_scores, best, order or tiers, chosen and rejected, or rankers="
        alone = ", or take a method without parts on responses" if "row" in objective.levels else ""
        raise UserError(f"{where}: {_name(objective, args)} compares responses, and {missing}; {give}{alone}")
    console.print(f"[yellow]{escape(where)}: {missing}, so the loss is of tokens alone[/yellow]", soft_wrap=True)


def _gives(example: Example, key: str) -> bool:
    return example.scores is not None and example.order_alone == (key == "order")


def _name(objective: Objective, args: GRKDConfig) -> str:
    """The method's name in messages; of an `objective=` its class."""
    return args.method if objectives.method(args.method) is type(objective) else type(objective).__name__
