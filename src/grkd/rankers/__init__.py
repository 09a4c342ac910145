"""One file per ranker; the file's name is the ranker's name.

A ranker's file holds a dataclass of options (a subclass of Ranker) and names it RANKER. `panel` has several of them
and how their scores make one order.
"""

from grkd.rankers._base import (
    PER_GROUP,
    PER_RESPONSE,
    Columns,
    Messages,
    Need,
    Prompt,
    Prompts,
    Ranker,
    Resources,
    Responses,
    Scores,
    Tally,
    Teacher,
)
from grkd.rankers._registry import load, names, option_types, ranker
from grkd.rankers.agreement import agreement
from grkd.rankers.combine import COMBINATIONS, Combination, Order, Votes, order, votes
from grkd.rankers.members import Member, member, weighted_members
from grkd.rankers.panel import Panel, Ranked, panel, reward_panel

__all__ = [
    "COMBINATIONS",
    "PER_GROUP",
    "PER_RESPONSE",
    "Columns",
    "Combination",
    "Member",
    "Messages",
    "Need",
    "Order",
    "Panel",
    "Prompt",
    "Prompts",
    "Ranked",
    "Ranker",
    "Resources",
    "Responses",
    "Scores",
    "Tally",
    "Teacher",
    "Votes",
    "agreement",
    "load",
    "member",
    "names",
    "option_types",
    "order",
    "panel",
    "ranker",
    "reward_panel",
    "votes",
    "weighted_members",
]
