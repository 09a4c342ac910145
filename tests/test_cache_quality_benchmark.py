"""The quality benchmark of a cache of ranks: its students, what is kept of them, and the guide's table."""

import json
from pathlib import Path

import pytest

from benchmarks import cache_quality
from benchmarks._cache_forms import FORMS
from benchmarks._cache_quality_table import table

ROOT = Path(__file__).parents[1]
SIZES = {"seeds": 2, "steps": 3, "texts": 8, "heldout": 4, "tokens": 6, "batch": 4, "layers": 2}


def test_the_guides_table_is_the_result_file() -> None:
    result = json.loads((ROOT / "benchmarks/results/2026-11-29-cache-quality.json").read_text())
    guide = (ROOT / "docs/guide/rank-cache.md").read_text(encoding="utf-8")
    assert table(result["rows"]) in guide
    for name in ("one-pass", "needed"):
        once = json.loads((ROOT / f"benchmarks/results/2026-11-29-cache-quality-{name}.json").read_text())
        assert table(once["rows"]) in guide
    sizes = {row["form"]: row["bytes_per_token"] for row in result["rows"]}
    assert (sizes["top-16"], sizes["sample-16"], sizes["live"]) == (51, 49, 4 * 49_152)


def test_students_of_a_cache_beside_the_live_teachers(tmp_path: Path, tiny_teacher: Path) -> None:
    """Pairs of the top are learnt from a cache as from the live teacher; what was trained is not trained again."""
    given = [f"--{name}={value}" for name, value in SIZES.items()]
    forms = ["live", "live, again", "sample-16", "live, order of 16", "order of 16"]
    command = ["run", str(tmp_path), "--model", str(tiny_teacher), *given, "--only", *forms]
    cache_quality.main(command)
    out = tmp_path / "result.json"
    (tmp_path / "runs" / "0-1.json").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("runs/?-?.json")}
    cache_quality.main(command)
    assert {path.name for path in tmp_path.glob("runs/?-?.json")} == {*times, "0-1.json"}
    assert all((tmp_path / "runs" / name).stat().st_mtime_ns == time for name, time in times.items())
    cache_quality.main(["keep", str(tmp_path), "--out", str(out)])
    rows = {row["form"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(rows) == forms == [name for name in FORMS if name in forms]
    assert rows["order of 16"]["over_prompts"]["difference"] == pytest.approx(0, abs=1e-4)
    again, live = (rows[name]["forward_kl_nats_per_seed"] for name in ("live, again", "live"))
    assert again != live  # another order of texts, and the same measures else
    difference = rows["live, again"]["over_prompts"]["difference"]
    assert difference == pytest.approx(sum(again) / 2 - sum(live) / 2, abs=2e-5)
    assert rows["sample-16"]["seeds"] == 2
