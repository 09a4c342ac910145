"""Every metric's name, label, unit, direction, scale and range: the one place that knows them. Needs no torch.

`direction`: 1 higher is better, -1 lower is better, 0 not known (then nothing is called best and no search goes by it).
`low`, `high`: the values that the metric can take, in its own unit (None: no bound). `scale` turns its own unit into
the unit shown: a share is stored in [0, 1] and shown in percent.
"""

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from functools import partial

from grkd.errors import UserError


@dataclass(frozen=True)
class Metric:
    """What is known of a metric. against_teacher: measured against the teacher, whose own value says nothing."""

    name: str
    label: str
    _: KW_ONLY
    unit: str = ""
    direction: int = 0
    scale: float = 1.0
    decimals: int = 3
    low: float | None = None
    high: float | None = None
    against_teacher: bool = False

    @property
    def is_share(self) -> bool:
        """Whether its values are in [0, 1]."""
        return (self.low, self.high) == (0.0, 1.0)

    def clipped(self, low: float, high: float) -> tuple[float, float]:
        """Bounds of an interval, moved inside the metric's range; NaN stays NaN."""
        inside = []
        for bound in (low, high):
            bound = bound if self.low is None or not bound < self.low else self.low
            inside.append(bound if self.high is None or not bound > self.high else self.high)
        return inside[0], inside[1]


# Kinds of metrics, each called with name, label and against_teacher. Shares are shown in percent.
share = partial(Metric, unit="%", direction=1, scale=100.0, decimals=2, low=0.0, high=1.0)
_nats = partial(Metric, unit="nats", direction=-1, low=0.0)
_correlation = partial(Metric, direction=1, low=-1.0, high=1.0)
_unit_interval = partial(Metric, direction=1, low=0.0, high=1.0)

# In the order in which tables show them.
METRICS = {
    metric.name: metric
    for metric in (
        share("accuracy", "accuracy"),
        share("top5_accuracy", "top-5 accuracy"),
        _correlation("votes_kendall_tau", "Kendall tau with people's votes"),
        _unit_interval("outside_auroc", "AUROC of inputs of no class (probability)"),
        _unit_interval("outside_auroc_logit", "AUROC of inputs of no class (logit)"),
        _unit_interval("corpus_ndcg10", "NDCG@10 over the corpus"),
        _unit_interval("corpus_mrr", "MRR over the corpus"),
        _unit_interval("corpus_map", "MAP over the corpus"),
        _unit_interval("corpus_recall100", "recall@100 over the corpus"),
        _unit_interval("list_ndcg10", "NDCG@10 over the candidates"),
        _unit_interval("list_mrr", "MRR over the candidates"),
        _unit_interval("list_map", "MAP over the candidates"),
        _unit_interval("list_recall10", "recall@10 over the candidates"),
        share("exact_match", "exact match"),
        _nats("nll_nats", "negative log-likelihood"),
        _nats("forward_kl_nats", "forward KL", against_teacher=True),
        _nats("reverse_kl_nats", "reverse KL", against_teacher=True),
        _nats("soft_cross_entropy_nats", "soft cross-entropy"),
        _correlation("kendall_tau", "Kendall tau", against_teacher=True),
        share("pair_accuracy", "pair accuracy", against_teacher=True),
        share("top1_agreement", "top-1 agreement", against_teacher=True),
        _unit_interval("ndcg", "NDCG", against_teacher=True),
        share("response_pair_accuracy", "pair accuracy of responses", against_teacher=True),
        _correlation("response_kendall_tau", "Kendall tau of responses", against_teacher=True),
        share("response_top1_agreement", "top-1 agreement of responses", against_teacher=True),
        _unit_interval("response_ndcg", "NDCG of responses", against_teacher=True),
        share("ece", "calibration error", direction=-1),
        share("expected_calibration_error", "calibration error", direction=-1),
        Metric("brier", "Brier score", direction=-1, low=0.0, high=2.0),
        share("best_has_top_grade", "favourite has the top grade"),
        share("groups/no_order", "groups without an order", direction=0),
        # Costs of the students' architecture, which methods share: no method is best in them.
        Metric("query_ms", "time per query", unit="ms", decimals=2, low=0.0),
        Metric("index_mb", "index", unit="MB", decimals=1, low=0.0),
        Metric("model_mb", "model", unit="MB", decimals=1, low=0.0),
    )
}

# Of a prompt's responses, what speaks of their order; and what a language model's rank fidelity is measured by (nothing
# of tokens if the vocabularies differ).
OF_RESPONSES = ("pair_accuracy", "kendall_tau", "top1_agreement", "ndcg")
OF_RANKS = (
    *("soft_cross_entropy_nats", "forward_kl_nats", "reverse_kl_nats", *OF_RESPONSES),
    *(f"response_{name}" for name in OF_RESPONSES),
)

# Accuracy inside a group of look-alike classes: beginning of the metric's name -> of its label.
GROUPS = {"group_accuracy/": "accuracy on", "within_group_accuracy/": "accuracy within"}

SCORES = "score/"  # a ranker's mean score of new responses: the rest is its name


def metric_of(name: str) -> Metric:
    """The known metric of that name, an accuracy inside a group of classes, or one whose direction is not known."""
    for prefix, words in GROUPS.items():
        if name.startswith(prefix):
            return share(name, f"{words} {name.removeprefix(prefix)}")
    if name.startswith(SCORES):
        return Metric(name=name, label=f"score by {name.removeprefix(SCORES)}", direction=1)
    nats = name.endswith("_nats")
    plain = Metric(name=name, label=name.removesuffix("_nats").replace("_", " "), unit="nats" if nats else "")
    return METRICS.get(name, plain)


def in_order(names: Iterable[str]) -> tuple[Metric, ...]:
    """The metrics of these names, each once: known ones in the registry's order, then the others as they come."""
    given = dict.fromkeys(names)
    known = [name for name in METRICS if name in given]
    return tuple(metric_of(name) for name in dict.fromkeys([*known, *given]))


def higher_is_better(name: str) -> bool:
    """Whether more of a metric is better. Raises UserError if the registry does not know its direction."""
    direction = metric_of(name).direction
    if not direction:
        known = ", ".join(name for name, metric in METRICS.items() if metric.direction)
        raise UserError(f"metric {name!r}: it is not known whether higher is better; choose one of {known}")
    return direction > 0
