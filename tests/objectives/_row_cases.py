"""What the contract cannot derive of methods whose rows are classes or tokens."""

from typing import Any

# Sets of options beyond the defaults.
OPTION_SETS: dict[str, dict[str, dict[str, Any]]] = {
    "grkd": {
        "default": {},
        "soft pairs": {"pair_target": "soft", "tau": 0.5},
        "top": {"group": "top", "group_size": 4, "alpha_shape": "cosine", "temperature": 2.0, "t_squared": True},
        "sample": {"group": "sample", "group_size": 4, "normalize": "candidates", "label_weight": 0.5},
        "responses": {"level": "response", "response_soft": "responses", "temperature": 2.0},
        "responses, soft pairs": {"level": "response", "pair_target": "soft", "tau_squared": True},
        "both": {"level": "both", "group": "top", "group_size": 4, "token_weight": 0.5, "label_weight": 0.5},
        "both, soft pairs": {
            "level": "both",
            "response_soft": "responses",
            "pair_target": "soft",
            "response_weight": 2.0,
        },
        "margins": {"pair_target": "margin", "tau": 2.0, "standardize": True},
        "gaps": {"pair_weight": "probability_gap", "pair_target": "soft", "tau": 2.0, "normalize": "candidates"},
        "ranks": {"pair_weight": "rank", "group": "top", "group_size": 4},
        "gap margins": {"pair_weight": "probability_gap", "pair_target": "margin", "standardize_pairs": True},
        "across": {"across_batch": 0.5, "pair_target": "soft", "temperature": 2.0},
        "across, gaps": {"across_batch": 0.5, "pair_weight": "probability_gap"},
        "across, relations": {"across_relation": 2.0, "advantage_scale": 3.0},
        "relations within": {"within_relation": 2.0, "pair_scale": 0.0, "relation_temperature": 3.0},
        "across, lists": {"across_listwise": 2.0, "pair_scale": 0.0, "temperature": 2.0},
        "advantage": {"advantage_scale": 2.0, "pair_scale": 0.0, "temperature": 2.0},
        "advantage of responses": {"level": "both", "advantage_scale": 2.0, "advantage_temperature": 0.5},
        "weighted responses": {"level": "response", "pair_weight": "rank", "response_soft": "responses"},
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
}

# Options that do something only together with others: (method, option) -> the others.
TOGETHER: dict[tuple[str, str], dict[str, Any]] = {
    ("grkd", "group"): {"group": "top", "group_size": 4},  # from "auto", which is always one of the other three
    ("grkd", "group_size"): {"group": "top", "group_size": 4},
    ("grkd", "group_temperature"): {"group": "sample", "group_size": 4},
    ("grkd", "t_squared"): {"temperature": 2.0},
    ("grkd", "tau_squared"): {"tau": 2.0},
    ("grkd", "standardize_pairs"): {"tau": 0.5},
    ("grkd", "across_batch"): {"across_batch": 0.7},
    ("grkd", "advantage_temperature"): {"advantage_scale": 1.0},
    ("grkd", "relation_temperature"): {"across_relation": 2.0},
    ("grkd", "response_weight"): {"level": "response"},
    ("grkd", "response_tau"): {"level": "response"},
    ("grkd", "response_soft"): {"level": "response"},
    ("dkd", "warmup"): {"warmup": 0.6},
    ("dist", "t_squared"): {"temperature": 2.0},
    ("rkd", "label_weight"): {"on": "logits"},
}

# Methods that are not at their minimum where the student equals the teacher, and why.
NO_IDENTITY = {
    ("grkd", "default"): "hard pairs push every margin towards infinity",
    ("grkd", "top"): "hard pairs push every margin towards infinity",
    ("grkd", "sample"): "hard pairs, and labels that are not the teacher's",
    ("grkd", "responses"): "hard pairs",
    ("grkd", "both"): "hard pairs, and labels that are not the teacher's",
    ("grkd", "ranks"): "hard pairs",
    ("grkd", "across, gaps"): "hard pairs",
    ("grkd", "across, relations"): "hard pairs, and the advantage asks for the teacher's best alone",
    ("grkd", "advantage"): "the advantage asks for the teacher's best alone",
    ("grkd", "advantage of responses"): "hard pairs, and the advantage asks for the best alone",
    ("grkd", "weighted responses"): "hard pairs",
    ("dkd", "default"): "labels are not the teacher's",
    ("dkd", "target"): "labels are not the teacher's",
    ("dist", "default"): "labels are not the teacher's",
    ("rkd", "angles"): "labels are not the teacher's",
    ("pld", "default"): "the likelihood of an order grows with every margin",
    ("pld", "list mle"): "the likelihood of an order grows with every margin",
    ("pld", "teacher first"): "the likelihood of an order grows with every margin",
    ("kd", "labels"): "labels are not the teacher's",
    ("ce", "default"): "labels are not the teacher's",
}

# Draws that do not depend on how the rows are batched: at this temperature the sample is the top.
DETERMINISTIC: dict[str, dict[str, Any]] = {"grkd": {"group_temperature": 1e-7}}
