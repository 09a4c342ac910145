"""The figures of benchmarks that can be tested item by item."""

from collections.abc import Iterator
from dataclasses import dataclass

TASKS = {
    "gsm8k": "GSM8K",
    "exact_match": "exact match",
    "alpaca_eval": "AlpacaEval 2",
    "arena_hard": "Arena-Hard",
    "mt_bench": "MT-Bench",
    "rank": "rank",
}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure that can be tested item by item.

    value: the item's key; weight: the key that says how many values it is the mean of (None: one). In the unit shown a
    value is `scale` times the item's. right_or_wrong: 0 or 1 of every item.
    """

    task: str
    name: str
    value: str
    weight: str | None = None
    unit: str = ""
    scale: float = 1.0
    decimals: int = 3
    higher_is_better: bool = True
    right_or_wrong: bool = False

    @property
    def title(self) -> str:
        return f"{TASKS.get(self.task, self.task)}: {self.name}" + (f" ({self.unit})" if self.unit else "")


def _rank_measures() -> Iterator[Measure]:
    shares = {
        "pair_accuracy": "pair accuracy",
        "top1_agreement": "top-1 agreement",
        "best_has_top_grade": "favourite has the top grade",
    }
    others = {
        "kendall_tau": "Kendall tau",
        "ndcg": "NDCG",
        "forward_kl_nats": "forward KL",
        "reverse_kl_nats": "reverse KL",
    }
    for prefix, weight in (("token", "tokens"), ("response", None), ("grade", None)):
        for key, name in (shares | others).items():
            yield Measure(
                task="rank",
                name=f"{name} of {prefix}s" if prefix != "grade" else f"{name}, by grades",
                value=f"{prefix}_{key}",
                weight=weight,
                unit="%" if key in shares else "nats" if key.endswith("_nats") else "",
                scale=100.0 if key in shares else 1.0,
                decimals=2 if key in shares else 3,
                higher_is_better=not key.endswith("_nats"),
            )


MEASURES = (
    Measure(task="alpaca_eval", name="win rate", value="win_percent", unit="%", decimals=2),
    Measure(task="arena_hard", name="win rate", value="win_percent", weight="battles", unit="%", decimals=2),
    Measure(task="mt_bench", name="score", value="rating", weight="ratings", decimals=2),
    *(
        Measure(task=task, name="accuracy", value="correct", unit="%", scale=100.0, decimals=2, right_or_wrong=True)
        for task in ("gsm8k", "exact_match")
    ),
    *_rank_measures(),
)
