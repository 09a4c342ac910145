"""The generation benchmark runs on a CPU too, and its result file says what was measured where."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import generation, generation_table
from grkd.models import graph_sampler
from grkd.models.load import load_language_model


def test_benchmark_of_a_tiny_model(tiny_teacher: Path, tiny_prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "generation.json"
    words = [str(tiny_teacher), "--prompts=4", "--n=2", "--max-new-tokens=5", "--batch-sizes=3", "--device=cpu"]
    generation.main([*words, "--date=2026-01-02", f"--out={out}", f"--data={tiny_prompts}"])
    result = json.loads(out.read_text())
    assert result["date"] == "2026-01-02"
    assert result["hardware"].startswith("CPU")
    assert result["command"].startswith("python -m benchmarks.generation ")
    assert {"torch", "transformers"} <= result["versions"].keys()
    assert [row["impl"] for row in result["rows"]] == ["dynamic", "static", "graph"]
    for row in result["rows"]:
        assert row["case"].endswith("up to 5 new, top_p 1.0, float32, batch 3")
        assert "8 prompts of" in row["case"]
        assert 8 <= row["tokens"] <= 8 * 5
        assert row["tokens_per_second"] > 0
        assert row["peak_mib"] is None
    for row in result["rows"][1:]:
        assert (row["greedy_rows_equal"], row["greedy_first_tokens_equal"]) == (1.0, 1.0)


def test_random_weights_of_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "generation.json"
    made, original = [], graph_sampler.DecodingRows
    monkeypatch.setattr(graph_sampler, "DecodingRows", lambda *a, **o: made.append(o["slots"]) or original(*a, **o))
    words = ["tiny", "--layers=2", "--prompt-tokens=123", "--max-new-tokens=6", "--batch-sizes=3,2", "--run-on"]
    generation.main([*words, "--methods=dynamic,graph", "--device=cpu", "--profile", f"--out={out}"])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["impl"], row["tokens"]) for row in rows] == [
        *(("dynamic", 18), ("graph", 18)),
        *(("dynamic", 12), ("graph", 12)),
    ]
    assert made == [256, 256]  # the first pass, of four tokens, made the buffers of the timed one
    assert rows[0]["case"].startswith("tiny cut to 2 layers, random weights, 3 prompts of 123 to 123 tokens")
    assert "aten::" in capsys.readouterr().out


def test_bytes_that_a_decoding_reads(tiny_teacher: Path) -> None:
    """By hand: 2 responses of 3 and 1 tokens to prompts of 4 and 2, one batch of three steps."""
    model = load_language_model(str(tiny_teacher), dtype=torch.float32)
    work = generation.Work(model, [[5] * 4, [5] * 2], 8, 1.0, [], 0)
    weights = sum(parameter.numel() for parameter in model.parameters()) - 40 * 32  # a row of the table per token
    seen = (4 + 5 + 6) + 2
    state = 2 * 3 * 2 * 8  # keys and values of 3 layers, 2 heads of 8
    assert work.bytes_read([[1, 2, 3], [1]], 2) == 4 * (3 * weights + seen * state)


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


def test_the_page_is_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "performance.md"
    page.write_text(generation_table.PAGE.read_text())
    committed = generation_table.PAGE.read_text()
    monkeypatch.setattr(generation_table, "PAGE", page)
    generation.main(["table"])
    assert page.read_text() == committed
    assert "| 512 | graph | 225,826 | 21.4 |" in page.read_text()


def test_table_of_the_newest_rows_of_a_model(tmp_path: Path) -> None:
    """By hand: 30 tokens per second are 2.5 times 12; 36 of a later sitting are 3 times, with a mark."""
    row = {"case": "m, 8 prompts of 3 to 4 tokens, up to 5 new, batch 8", "first_seconds": 0.5}
    row |= {"bandwidth_share": None, "peak_mib": None}
    measured = [
        {**row, "impl": "dynamic", "tokens_per_second": 12.0},
        {**row, "impl": "graph", "tokens_per_second": 30.0, "greedy_first_tokens_equal": 1.0},
    ]
    result = {"hardware": "one card", "versions": {"torch": "2", "trl": None}, "command": "run", "rows": measured}
    result["copy_gb_per_second"] = 4000
    for date in ("2026-01-01", "2026-01-03", "2026-01-02"):
        (tmp_path / f"{date}-generation-m.json").write_text(json.dumps({**result, "date": date}))
    text = generation_table.sections(generation_table.results(tmp_path))
    assert text.splitlines()[:4] == ["### m", "", "m, prompts of 3 to 4 tokens, up to 5 new.", ""]
    assert "one card; torch 2; 2026-01-03; `run`. A large copy on this GPU moves 4,000 GB/s." in text
    assert text.endswith("| 8 | dynamic | 12 | 1.0 |  | 0.50 |  |  |\n| 8 | graph | 30 | 2.5 |  | 0.50 |  | 1.000 |")
    assert text.count("###") == 1
    later = {**result, "rows": [{**measured[1], "tokens_per_second": 36.0}], "date": "2026-01-04", "commit": "c"}
    (tmp_path / "2026-01-04-generation-m.json").write_text(json.dumps(later))
    text = generation_table.sections(generation_table.results(tmp_path))
    assert "one card; torch 2; 2026-01-03; `run`; 2026-01-04; commit c; `run`." in text
    assert text.endswith(
        "| 8 | dynamic | 12 | 1.0 |  | 0.50 |  |  |\n| 8 | graph | 36 | 3.0 \\* |  | 0.50 |  | 1.000 |"
    )
