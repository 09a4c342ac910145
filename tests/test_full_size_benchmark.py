"""The benchmark at full size runs small on a CPU, keeps what it has measured, and counts operations rightly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import full_size, full_size_table, growth
from benchmarks._full_size_models import Lengths, built, configs, random_items, step_flops
from benchmarks._where_time_goes import Span, kind_of, shares
from grkd.data.language import collate, response_logits


def test_a_small_run_and_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    words = ["--tiny", "--device=cpu", "--pairs=gemma", "--steps=1", "--warm-up=1", "--date=2026-01-02"]
    where = f"--out={tmp_path}"
    full_size.main([*words, where, "--only=tokens-packed,responses,cached-kept,tokens-float8"])

    def broken(work: Any) -> Any:
        raise RuntimeError("no memory\nleft")

    monkeypatch.setitem(full_size.RUNS, "loop", broken)
    full_size.main([*words, where, "--only=loop,tokens-padded"])
    monkeypatch.setitem(full_size.RUNS, "grkd", broken)
    full_size.main([*words, where, "--only=tokens-padded"])  # what fails takes nothing away
    cases = json.loads((tmp_path / "2026-01-02-full-size-gemma.json").read_text())["cases"]
    assert list(cases) == ["tokens-packed", "responses", "cached-kept", "tokens-float8", "loop", "tokens-padded"]
    assert cases["loop"]["error"] == "RuntimeError: no memory left"
    for name in ("tokens-packed", "responses", "cached-kept", "tokens-float8", "tokens-padded"):
        assert len(cases[name]["all_step_ms"]) == 2
        assert cases[name]["tokens_per_second"] > 0
    assert cases["tokens-packed"]["packed"]
    assert cases["tokens-packed"]["loss"] == pytest.approx(cases["tokens-padded"]["loss"], rel=1e-4)
    table = full_size_table.tables(full_size_table.results(tmp_path))
    assert "### Gemma-2 9B to 2B" in table
    assert "| loop | RuntimeError: no memory left |" in table
    assert table in capsys.readouterr().out


def test_another_sitting_is_merged(tmp_path: Path) -> None:
    """Its cases go over the old ones, each with its own command and date; a failure does not."""

    def write(folder: Path, date: str, cases: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        told = {"command": f"sitting of {date}", "commit": date[-2:], "date": date}
        whole = {**told, "pair": "llama", "cases": cases}
        (folder / f"{date}-full-size-llama.json").write_text(json.dumps(whole))

    old, new = tmp_path / "old", tmp_path / "new" / "inner"
    write(old, "2026-01-02", {name: {"step_ms": 9.0, "command": "first"} for name in ("tokens", "trl", "dpo")})
    write(new, "2026-01-03", {"tokens": {"step_ms": 5.0}, "trl": {"error": "no memory"}, "loop": {"error": "none"}})
    (path,) = full_size.merged(tmp_path / "new", old)
    assert path == old / "2026-01-02-full-size-llama.json"
    cases = json.loads(path.read_text())["cases"]
    assert cases["tokens"] == {"step_ms": 5.0, "command": "sitting of 2026-01-03", "commit": "03", "date": "2026-01-03"}
    assert json.loads(path.read_text())["earlier"] == {"tokens": [{"step_ms": 9.0, "command": "first"}]}
    assert cases["trl"] == cases["dpo"] == {"step_ms": 9.0, "command": "first"}
    assert cases["loop"]["error"] == "none"


def test_a_peer_of_another_sitting_is_marked() -> None:
    row = {"floor_share": {"done": 0.5, "needed": 0.4}, "tokens_per_second": 9.0, "peak_gib": None, "against": None}
    cases = {
        "trl": {**row, "step_ms": 20.0, "command": "one"},
        "tokens": {**row, "step_ms": 10.0, "command": "one", "against": "trl"},
        "tokens-float8": {**row, "step_ms": 8.0, "command": "two", "against": "trl"},
    }
    lines = [full_size_table._line(name, row, cases) for name, row in cases.items()]
    assert lines[1] == "| tokens | 10 | 9 | 2.00 trl | 0.500 | 0.400 |  |"
    assert "| 2.50 trl \\* |" in lines[2]


def test_the_time_of_a_step_by_kinds_of_kernels() -> None:
    """Two kernels side by side count once, and gaps are idle: all kinds add up to the time from begin to end."""
    spans = [
        Span("nvjet_tst_128x256", 1000, 5000),
        Span("triton_poi_fused_mul", 4000, 6000),  # a millisecond of it beside the product
        Span("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", 7000, 9000),
        Span("multi_tensor_apply_kernel<LpNormFunctor>", 9000, 9500),
        Span("pytorch_flash::flash_bwd_kernel", 9500, 11_000),
    ]
    where = shares(reversed(spans), steps=2)
    expected = {"products": 2.0, "optimizer": 1.0, "attention": 0.75, "layers, elementwise": 0.5, "idle": 0.5}
    assert where == {**expected, "clipping": 0.25}
    assert sum(where.values()) == (11_000 - 1000) / 1000 / 2
    assert kind_of("_statistics") == kind_of("row_kernel") == "head"
    row = {"floor_share": {"done": 0.5, "needed": 0.4}, "tokens_per_second": 9.0, "peak_gib": None, "against": None}
    cases = {"tokens": {**row, "step_ms": 5.0, "where": where}, "trl": {**row, "step_ms": 6.0}}
    older = {
        "trl": [{"step_ms": 7.0, "where": {"products": 9.0}}, {"step_ms": 8.0}],
        "tokens": [{"where": {"idle": 1.0}}],
    }
    lines = full_size_table._where(cases, older)
    assert lines[1].startswith("| ms a step of | products | optimizer | attention |")
    assert lines[3:] == [
        "| tokens | 2.0 | 1.0 | 0.8 | 0.5 | 0.5 | 0.2 |",
        "| trl | 9.0 | 0.0 | 0.0 | 0.0 | 0.0 | 0.0 |",
    ]


def test_growth_runs_small(tmp_path: Path, capsys: Any) -> None:
    words = ["--tiny", "--device=cpu", "--steps=1", "--warm-up=0", "--only=group", f"--out={tmp_path}"]
    growth.main([*words, "--date=2026-01-02"])
    rows = json.loads((tmp_path / "2026-01-02-growth.json").read_text())["rows"]
    assert [(row["axis"], row["value"]) for row in rows] == [("group", 4), ("group", 16), ("group", 64)]
    assert growth.case_of("length", 3072)[0].sequences == 4
    assert all(row["step_ms"] > 0 for row in rows)
    assert "| candidates of a group | 64 |" in capsys.readouterr().out


@pytest.mark.parametrize("pair", ["gemma", "llama"])
def test_operations_are_those_that_pytorch_counts(pair: str) -> None:
    """Of one forward pass; attention is counted for seen keys alone, where PyTorch counts whole squares."""
    teacher, student = configs(pair, tiny=True)
    items = random_items(3, Lengths(prompt=6, response=10), vocabulary=96, per_prompt=1)
    model = built(student, dtype=torch.float32, device=torch.device("cpu"), seed=0)
    model.set_attn_implementation("eager")  # whose products are ordinary ones
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        response_logits(model, collate(items, pad_token_id=0))
    found = step_flops(student, teacher, items, recompute=True, body=False, head=False)
    once = found["done"] - found["needed"]  # the layers' forward pass
    head = found["needed"] / 3 - once
    squares = student.num_hidden_layers * 4 * student.num_attention_heads * student.head_dim * 16**2 * 3
    columns = 11 / 10  # the model also predicts what follows a response
    assert once + squares / 2 + head * columns == pytest.approx(counted.get_total_flops(), rel=0.02)
