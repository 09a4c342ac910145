"""How far the rankers of a run, or its teachers, agree: Kendall's tau of every two, and what each left open."""

from pathlib import Path
from typing import Any

from grkd.errors import UserError
from grkd.files import read_json
from grkd.reports.tables import fixed, percent

_FILE = Path("score") / "rankers.json"
_OF_TOKENS = Path("score") / "teachers.json"


def agreement_view(folder: Path) -> dict[str, Any] | None:
    """Lines of the report's table; None for fewer than two rankers, or a run that holds no agreement."""
    try:
        found = read_json(folder / _FILE)["agreement"]
        rankers, pairs = found["rankers"], found["pairs"]
        if len(rankers) < 2:
            return None
        return {
            "groups": f"{found['groups']:,}",
            "responses": f"{found['responses']:,}",
            "pairs": [
                {"name": " and ".join(each["rankers"]), "tau": fixed(each["kendall_tau"], 2), "groups": each["groups"]}
                for each in pairs
            ],
            "rankers": [
                {"name": name, "abstains": percent(each["abstentions"]), "ties": percent(each["ties"])}
                for name, each in rankers.items()
            ],
        }
    except (OSError, UserError, KeyError, TypeError, ValueError):
        return None  # of an earlier version, or damaged: `grkd verify` says so


def token_agreement_view(folder: Path) -> dict[str, Any] | None:
    """Lines on how several teachers agree on tokens; None for a run that holds nothing of it."""
    try:
        found = read_json(folder / _OF_TOKENS)
        lines = [
            {
                "name": " and ".join(each["teachers"]),
                "tau": fixed(each["kendall_tau"], 2),
                "top1": percent(each["top1_agreement"]),
                "tokens": f"{each['tokens']:,}",
            }
            for each in found["pairs"]
        ]
        return {"top_k": found["top_k"], "pairs": lines} if lines else None
    except (OSError, UserError, KeyError, TypeError, ValueError):
        return None
