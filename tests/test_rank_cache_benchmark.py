"""The benchmark of a cache of ranks runs on a CPU, and the guide's figures are those of its result file."""

import json
from pathlib import Path

from benchmarks import rank_cache

ROOT = Path(__file__).parents[1]


def test_of_a_tiny_student(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    sizes = ["--vocabulary=500", "--layers=1", "--hidden=64", "--responses=16", "--tokens=4"]
    rank_cache.main([*sizes, f"--out={out}", "--date=2026-01-02"])
    result = json.loads(out.read_text())
    assert [row["impl"] for row in result["rows"]] == ["read", "decode", "read, sample", "decode, sample", "step"]
    assert all(row["tokens_per_second"] > 0 for row in result["rows"])
    assert (result["date"], result["bytes_per_token"]) == ("2026-01-02", 37)  # (16 x 9 + 15) bits, 17 bytes


def test_the_guides_figures() -> None:
    result = json.loads((ROOT / "benchmarks/results/2026-11-29-rank-cache.json").read_text())
    rates = {row["impl"]: row["tokens_per_second"] for row in result["rows"]}
    both = 1 / (1 / rates["read"] + 1 / rates["decode"])
    guide = (ROOT / "docs/guide/rank-cache.md").read_text(encoding="utf-8")
    assert f"{round(both, -4):,.0f} tokens/s" in guide
    assert f"{result['read_and_decode_over_step']:,.0f} times" in guide
    assert f"{result['bytes_per_token']} bytes per token" in guide
    both = 1 / (1 / rates["read, sample"] + 1 / rates["decode, sample"])
    assert f"Records of a sample are decoded at {round(both, -4):,.0f} tokens/s" in guide
    assert f"{result['bytes_per_token_sample']} bytes per token" in guide
