"""The quality benchmark of a cache of ranks: its table is the guide's."""

import json
from pathlib import Path

from benchmarks import cache_quality

ROOT = Path(__file__).parents[1]


def test_the_guides_table_is_the_result_file() -> None:
    result = json.loads((ROOT / "benchmarks/results/2026-11-28-cache-quality.json").read_text())
    guide = (ROOT / "docs/guide/rank-cache.md").read_text(encoding="utf-8")
    assert cache_quality.table(result["rows"]) in guide
    assert result["seeds"] >= 3
    sizes = {row["form"]: row["bytes_per_token"] for row in result["rows"]}
    assert (sizes["top-16"], sizes["sample-16"], sizes["live"]) == (51, 50, 4 * 49_152)
