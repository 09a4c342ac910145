"""The generation benchmark runs on a CPU too, and its result file says what was measured where."""

import json
from pathlib import Path

import pytest

from benchmarks import generation


def test_benchmark_of_a_tiny_model(tiny_teacher: Path, tiny_prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "generation.json"
    words = [str(tiny_teacher), "--prompts=4", "--n=2", "--max-new-tokens=5", "--batch-sizes=3", "--device=cpu"]
    generation.main([*words, "--date=2026-01-02", f"--out={out}", f"--data={tiny_prompts}"])
    result = json.loads(out.read_text())
    assert result["date"] == "2026-01-02"
    assert result["hardware"].startswith("CPU")
    assert result["command"].startswith("python -m benchmarks.generation ")
    assert {"torch", "transformers"} <= result["versions"].keys()
    assert [row["impl"] for row in result["rows"]] == ["dynamic", "static", "continuous"]
    for row in result["rows"]:
        assert row["case"].endswith("4 prompts x 2, up to 5 tokens, float32, batch 3")
        assert 8 <= row["tokens"] <= 8 * 5
        assert row["tokens_per_second"] > 0
        assert row["peak_mib"] is None


def test_one_that_fails_is_left_out(
    tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> list[list[int]]:
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr("grkd.models._decoding.static_cache", broken)
    out = tmp_path / "generation.json"
    words = [str(tiny_teacher), "--prompts=2", "--n=1", "--max-new-tokens=2", "--batch-sizes=2", "--device=cpu"]
    generation.main([*words, "--methods=static,dynamic", f"--out={out}"])
    assert [row["impl"] for row in json.loads(out.read_text())["rows"]] == ["dynamic"]
    assert "static: RuntimeError: out of memory, say" in capsys.readouterr().err


def test_unknown_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        generation.main(["folder", "--methods=fast"])
    assert "no method fast" in capsys.readouterr().err
