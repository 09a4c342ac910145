"""What the contract cannot derive of methods whose rows are classes or tokens."""

from typing import Any

# Sets of options beyond the defaults.
OPTION_SETS: dict[str, dict[str, dict[str, Any]]] = {
    "grkd": {
        "default": {},
        "soft pairs": {"pair_target": "soft", "tau": 0.5},
        "top": {"group": "top", "group_size": 4, "alpha_shape": "cosine", "temperature": 2.0, "t_squared": True},
        "sample": {"group": "sample", "group_size": 4, "normalize": "candidates", "label_weight": 0.5},
    },
    "kd": {"default": {}, "labels": {"temperature": 1.0, "label_weight": 0.5}},
}

# Options that do something only together with others: (method, option) -> the others.
TOGETHER: dict[tuple[str, str], dict[str, Any]] = {
    ("grkd", "group"): {"group": "top", "group_size": 4},  # from "auto", which is always one of the other three
    ("grkd", "group_size"): {"group": "top", "group_size": 4},
    ("grkd", "group_temperature"): {"group": "sample", "group_size": 4},
    ("grkd", "t_squared"): {"temperature": 2.0},
}

# Methods that are not at their minimum where the student equals the teacher, and why.
NO_IDENTITY = {
    ("grkd", "default"): "hard pairs push every margin towards infinity",
    ("grkd", "top"): "hard pairs push every margin towards infinity",
    ("grkd", "sample"): "hard pairs, and labels that are not the teacher's",
    ("kd", "labels"): "labels are not the teacher's",
    ("ce", "default"): "labels are not the teacher's",
}

# Draws that do not depend on how the rows are batched: at this temperature the sample is the top.
DETERMINISTIC: dict[str, dict[str, Any]] = {"grkd": {"group_temperature": 1e-7}}
