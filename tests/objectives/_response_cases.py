"""What the contract cannot derive of methods that are for responses; the tables are those of _row_cases."""

from typing import Any

OPTION_SETS: dict[str, dict[str, dict[str, Any]]] = {
    "dpo": {"default": {}, "smoothed": {"beta": 0.5, "label_smoothing": 0.2}},
    "gkd": {"default": {}, "forward": {"beta": 0.0, "temperature": 2.0}, "reverse": {"beta": 1.0}},
    "minillm": {
        "default": {},
        "unclipped": {"clip": False, "teacher_mix": 0.0},
    },
    "pad": {"default": {}, "ranking": {"target": "ranking", "beta": 1.0}},
    "pro": {
        "default": {},
        "temperatures": {"reward_temperatures": True, "sft_log_prob": "mean"},
        "ranking alone": {"sft_weight": 0.0},
    },
    "simpo": {"default": {}, "with best response": {"beta": 10.0, "sft_weight": 0.1}},
}
TOGETHER: dict[tuple[str, str], dict[str, Any]] = {
    ("minillm", "importance"): {"clip": False},
    ("minillm", "length_normalize"): {"single_step": False},  # responses of two tokens have one later token at most
}
NO_IDENTITY: dict[tuple[str, str], str] = {
    ("sft", "default"): "labels are not the teacher's",
    ("seqkd", "default"): "labels are not the teacher's",
    ("dpo", "default"): "the margin grows for ever",
    ("dpo", "smoothed"): "the margin is told by label_smoothing, not by the teacher's scores",
    ("pad", "ranking"): "the likelihood of one ranking grows with every margin",
    ("pro", "default"): "the best response is made likelier for ever",
    ("pro", "temperatures"): "the best response is made likelier for ever",
    ("pro", "ranking alone"): "margins grow for ever",
    ("grpo", "default"): "a policy gradient has no minimum at the teacher",
    ("simpo", "default"): "the margin grows for ever",
    ("simpo", "with best response"): "the margin grows for ever",
}
# minillm: the order of a response's tokens has a meaning but for the single step.
DETERMINISTIC: dict[str, dict[str, Any]] = {"minillm": {"long_term_weight": 0.0}}
