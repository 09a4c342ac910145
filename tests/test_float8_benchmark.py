"""The measures of benchmarks.float8_quality: none where nothing is lost, and what a mixed-up order costs."""

import json
from pathlib import Path

import torch

from benchmarks.float8_quality import row, table
from grkd.data.language import Item


def test_a_row_compares_tokens_and_responses() -> None:
    torch.manual_seed(0)
    groups = [[Item(f"{group}-{at}", [1], [2, 3]) for at in range(2)] for group in range(3)]
    logits, own = torch.randn(12, 32), -torch.rand(12)
    own[:4] = torch.tensor([-1.0, -1.0, -3.0, -3.0])  # the first group's means: -1, -3
    changed = own.clone()
    changed[:4] = torch.tensor([-2.0, -2.0, -1.0, -1.0])
    found = {"same": (logits, own), "again": (logits + 1.0, own), "turned": (-logits, changed)}
    same, turned = (row(name, "same", found, groups) for name in ("again", "turned"))
    assert same["forward_kl_nats"] < 1e-6
    assert [same[name] for name in ("top1_agreement", "kendall_tau", "response_kendall_tau")] == [1.0, 1.0, 1.0]
    assert turned["kendall_tau"] == -1.0
    assert turned["response_pair_accuracy"] == round(2 / 3, 5)
    assert (turned["response_tokens"], turned["groups"]) == (12, 3)
    assert "| turned | same | " in table([same, turned])


def test_the_page_has_the_measured_table() -> None:
    root = Path(__file__).parents[1]
    (result,) = root.glob("benchmarks/results/*-float8-quality.json")
    page = (root / "docs" / "performance.md").read_text(encoding="utf-8").split("<!-- float8 -->")[1].strip()
    assert page == table(json.loads(result.read_text(encoding="utf-8"))["rows"])
