"""Every method of language models through the whole pipe, from groups of a mixture of sources."""

import json
from pathlib import Path

import pytest

from grkd import cli

METHODS = [
    "ce", "sft", "seqkd", "kd", "{name: dist, label_weight: 0.5}", "gkd", "minillm", "dpo", "simpo", "pro", "pad",
    "{name: grkd, label: tokens, pairs.group: sample, pairs.group_size: 8}",
    "{name: grkd, label: on-policy, on_policy_fraction: 0.5}",
    "{name: grkd, label: responses, ranking: [{part: pairs, level: response, tau: 0.1}]}",
    "{name: grkd, label: both, ranking: [{part: pairs, target: soft, group: sample, group_size: 8}, "
    "{part: pairs, level: response, tau: 0.1}]}",
]  # fmt: skip


@pytest.mark.slow
def test_all_methods_learn_from_the_same_groups(tiny_recipe: Path) -> None:
    data = tiny_recipe.parent / "pairs.jsonl"
    lines = [{"prompt": f"w{n} w{n + 1}", "completion": f"w{n + 2} w{(7 * n) % 30}"} for n in range(20)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [
        f"data.train={data}",
        "responses={source: mixture, n: 4, mixture: {teacher: 1, student: 2, data: 1}, max_new_tokens: 6}",
        f"methods=[{', '.join(METHODS)}]",
        "training={steps: 2, batch_size: 8, learning_rate: 1e-3, log_every: 1}",
    ]
    assert cli.main(["run", str(tiny_recipe), *words]) == 0
    folder = tiny_recipe.parent / "run"
    results = json.loads((folder / "results.json").read_text())
    assert set(results["status"].values()) == {"done"}
    assert len(results["status"]) == len(METHODS)
    values = {
        (row["method"], row["metric"]): row["value"] for row in results["rows"] if row["method"] not in ("teacher",)
    }
    for metric in ("soft_cross_entropy_nats", "response_pair_accuracy"):
        assert ("before", metric) in values
    labels = {method for method, _ in values} - {"before"}
    moved = {
        label
        for label in labels
        if values[label, "soft_cross_entropy_nats"] != values["before", "soft_cross_entropy_nats"]
    }
    assert moved == labels, "a method that changed nothing"
    seen = {row["method"]: row["rows_seen"] for row in results["rows"] if row["seed"] is not None}
    assert seen["sft"] < seen["kd"] == seen["tokens"] == seen["both"]  # a response of four, and all of them
    assert seen["dpo"] < seen["kd"]
