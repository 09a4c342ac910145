"""What the contract cannot derive of methods whose rows are classes or tokens."""

from typing import Any

PAIRS, SOFT, CORRELATION = ({"part": name} for name in ("pairs", "soft_target", "correlation"))
WEIGHTED: dict[str, Any] = {"part": "contrib.weighted_pairs"}
RESPONSES: dict[str, Any] = {"level": "response"}
BATCH: dict[str, Any] = {"over": "batch"}

# Sets of options beyond the defaults.
OPTION_SETS: dict[str, dict[str, dict[str, Any]]] = {
    "grkd": {
        "default": {},
        "soft pairs": {"pairs.target": "soft", "pairs.tau": 0.5},
        "top": {"pairs.group": "top", "pairs.group_size": 4, "alpha_shape": "cosine", "soft_target.temperature": 2.0},
        "sample": {
            "pairs.group": "sample",
            "pairs.group_size": 4,
            "pairs.normalize": "candidates",
            "label_weight": 0.5,
        },
        "responses": {"ranking": [PAIRS | RESPONSES], "anchor": [SOFT | RESPONSES | {"t_squared": True}]},
        "responses, soft pairs": {"ranking": [PAIRS | RESPONSES | {"target": "soft"}]},
        "both": {"ranking": [PAIRS, PAIRS | RESPONSES], "label_weight": 0.5},
        "both, soft pairs": {
            "ranking": [PAIRS | {"target": "soft"}, PAIRS | RESPONSES | {"target": "soft"}],
            "anchor": [SOFT, SOFT | RESPONSES | {"weight": 2.0}],
        },
        "reverse KL": {"pairs.target": "soft", "soft_target.divergence": "reverse_kl"},
        "JSD": {"pairs.target": "soft", "soft_target.divergence": "jsd", "soft_target.temperature": 2.0},
        "pairs over the batch": {"ranking": [PAIRS | BATCH | {"target": "soft", "temperature": 2.0}]},
        "correlations": {"ranking": [CORRELATION | {"weight": 2.0, "temperature": 3.0}, CORRELATION | BATCH]},
        "lists over the batch": {"ranking": [SOFT | BATCH | {"divergence": "forward_kl", "temperature": 2.0}]},
        "reverse lists": {"ranking": [SOFT | BATCH | {"divergence": "reverse_kl"}]},
        "classes": {"preset": "classes"},
        "lists": {"preset": "lists"},
        "margins": {"ranking": [{"part": "contrib.margins", "tau": 2.0}]},
        "gaps": {"ranking": [WEIGHTED | {"target": "soft", "tau": 2.0, "normalize": "candidates"}]},
        "gap margins": {"ranking": [WEIGHTED | {"target": "margin"}]},
        "ranks": {"ranking": [WEIGHTED | {"by": "rank", "group": "top", "group_size": 4}]},
        "advantage": {"ranking": [{"part": "contrib.advantage", "weight": 2.0, "temperature": 0.5}]},
        "z-scores": {
            "ranking": [{"part": "contrib.z_score_pairs", "target": "soft"}, {"part": "contrib.z_score_correlation"}],
            "anchor": [{"part": "contrib.z_score_soft_target"}],
        },
    },
    "kd": {
        "default": {},
        "labels": {"temperature": 1.0, "label_weight": 0.5},
        "standardized": {"standardize": True, "temperature": 0.5},
    },
    "dkd": {"default": {}, "no labels' term": {"label_weight": 0.0, "standardize": True}, "target": {"beta": 0.0}},
    "dist": {
        "default": {},
        "no labels": {"label_weight": 0.0, "temperature": 2.0},
        "rows": {"intra_class_weight": 0.0, "label_weight": 0.0, "standardize": True},
    },
    # The default looks at features, whose gradient the contract does not follow: test_rkd.py does.
    "rkd": {
        "logits": {"on": "logits", "label_weight": 0.0},
        "angles": {"on": "logits", "distance_weight": 0.0},
    },
    "pld": {
        "default": {"label_weight": 0.5},
        "list mle": {"weight": "uniform", "label_first": False},
        "teacher first": {"label_first": False, "temperature": 2.0},
    },
    "plackett_luce": {"default": {}, "top": {"top_k": 3, "tau": 0.5}, "responses": {"level": "response"}},
    "margin_mse": {"default": {}, "all": {"pairs": "all"}},
    "lambdaloss": {"default": {}, "scores": {"grades": "scores", "k": 4, "mu": 0.0}},
}

# Options that do something only together with others: (method, option) -> the others.
TOGETHER: dict[tuple[str, str], dict[str, Any]] = {
    ("grkd", "ranking.pairs.group"): {"pairs.group": "top", "pairs.group_size": 4},  # auto is one of the other three
    ("grkd", "ranking.pairs.group_size"): {"pairs.group": "top", "pairs.group_size": 4},
    ("grkd", "ranking.pairs.group_temperature"): {"pairs.group": "sample", "pairs.group_size": 4},
    ("grkd", "ranking.pairs.temperature"): {"pairs.over": "batch"},
    ("grkd", "anchor.soft_target.t_squared"): {"soft_target.temperature": 2.0},
    ("dkd", "warmup"): {"warmup": 0.6},
    ("dist", "t_squared"): {"temperature": 2.0},
    ("rkd", "label_weight"): {"on": "logits"},
    ("plackett_luce", "top_k"): {"top_k": 4},
    ("lambdaloss", "k"): {"k": 4},
}

# Methods that are not at their minimum where the student equals the teacher, and why.
NO_IDENTITY = {
    **{
        ("grkd", case): "hard pairs push every margin towards infinity, or labels are not the teacher's"
        for case in ("default", "top", "sample", "responses", "both", "ranks", "classes", "lists")
    },
    ("grkd", "advantage"): "the advantage asks for the teacher's best alone",
    ("dkd", "default"): "labels are not the teacher's",
    ("dkd", "target"): "labels are not the teacher's",
    ("dist", "default"): "labels are not the teacher's",
    ("rkd", "angles"): "labels are not the teacher's",
    ("pld", "default"): "the likelihood of an order grows with every margin",
    ("pld", "list mle"): "the likelihood of an order grows with every margin",
    ("pld", "teacher first"): "the likelihood of an order grows with every margin",
    ("plackett_luce", "default"): "the likelihood of an order grows with every margin",
    ("plackett_luce", "responses"): "the likelihood of an order grows with every margin",
    ("plackett_luce", "top"): "the likelihood of an order grows with every margin",
    ("ranknet", "default"): "hard pairs push every margin towards infinity",
    ("lambdaloss", "default"): "hard pairs push every margin towards infinity",
    ("lambdaloss", "scores"): "hard pairs push every margin towards infinity",
    ("kd", "labels"): "labels are not the teacher's",
    ("ce", "default"): "labels are not the teacher's",
    ("uld", "default"): "a sum of absolute differences has a kink at its minimum",
}

# Draws that do not depend on how the rows are batched: at this temperature the sample is the top.
DETERMINISTIC: dict[str, dict[str, Any]] = {"grkd": {"pairs.group_temperature": 1e-7}}
