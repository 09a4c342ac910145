"""benchmarks/scaling.py: what its table says, and that docs/performance.md has it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from benchmarks import _scaling_work, scaling, scaling_table
from benchmarks._scaling_work import Launch
from tests._forked import on_ranks
from tests.distributed import _ways


def test_table_of_two_gpus_beside_one() -> None:
    def row(pair: str, case: str, gpus: int, step_ms: float, tokens: int, gib: float, **more: float) -> dict[str, Any]:
        measured = {"step_ms": step_ms, "tokens_per_second": tokens, "peak_gib_per_gpu": gib, **more}
        return {
            "pair": pair,
            "case": case,
            "gpus": gpus,
            "hardware": "2 x GPU",
            "date": "2026-01-01",
            "commit": "c",
            "command": "m",
            **measured,
        }

    rows = [
        row("p", "grkd, DDP", 1, 1000.0, 100, 5.0),
        row("p", "grkd, FSDP2", 1, 1250.0, 80, 5.0),
        row("p", "grkd, DDP", 2, 1100.4, 190, 6.0),
        row("p", "grkd, FSDP2", 2, 1.0, 180, 3.0),
        row("p", "grkd, DDP, compiled", 1, 500.0, 200, 5.0),
        row("p", "grkd, FSDP2, compiled", 2, 1.0, 390, 3.0),  # beside one GPU with compiled layers
        row("p", "TRL, DDP, bfloat16 weights", 2, 2000.0, 90, 6.0),  # its own run on one GPU has failed
        row("large", "grkd, FSDP2, teacher offloaded", 2, 2000.0, 50, 20.0, teacher_gib=48.0, limit_gib_per_gpu=24.0),
    ]
    text = scaling_table.sections({"versions": {"torch": "2", "trl": None}, "rows": rows})
    assert text.splitlines()[0] == "torch 2. 2 x GPU, 2026-01-01, commit c: `m`."
    assert text.splitlines()[4:] == [
        "| large | grkd, FSDP2, teacher offloaded | 2 | 2,000 | 50 |  | 20.0 of 24.0 allowed; teacher 48.0 |",
        "| p | grkd | 1 | 1,000 | 100 |  | 5.0 |",
        "| p | grkd, FSDP2 | 1 | 1,250 | 80 |  | 5.0 |",
        "| p | grkd, compiled | 1 | 500 | 200 |  | 5.0 |",
        "| p | grkd, DDP | 2 | 1,100 | 190 | 0.95 | 6.0 |",
        "| p | grkd, FSDP2 | 2 | 1 | 180 | 0.90 | 3.0 |",
        "| p | grkd, FSDP2, compiled | 2 | 1 | 390 | 0.97 | 3.0 |",
        "| p | TRL, DDP, bfloat16 weights | 2 | 2,000 | 90 |  | 6.0 |",
    ]


def test_the_page_is_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "performance.md"
    page.write_text(committed := scaling_table.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(scaling_table, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["scaling", "table"])
    scaling.main()
    assert page.read_text(encoding="utf-8") == committed


def test_single_cases_and_those_without_a_row() -> None:
    def chosen(*words: str, known: tuple[scaling.Key, ...] = ()) -> list[tuple[int, list[str]]]:
        return list(scaling.parts(scaling._parser().parse_args(words), known))

    assert chosen("--only", "one", "--pairs", "gemma", "--cases", "grkd, FSDP2") == [
        (1, ["gemma-2 9B to 2B: grkd, FSDP2"])
    ]
    two = chosen("--only", "two")[0][1]
    known: list[scaling.Key] = [("gemma-2 9B to 2B", "grkd, DDP", 2), ("gemma-2 9B to 2B", "grkd, FSDP2", 1)]
    assert chosen("--only", "two", "--missing", known=tuple(known)) == [(2, two[1:])]
    assert chosen("--only", "two", known=tuple(known)) == [(2, two)]


def test_no_checkpoint_is_written(tmp_path: Path) -> None:
    launch = Launch("gemma-2 9B to 2B", tmp_path, 1, tiny=True)
    assert launch.trainer("grkd, DDP").args.save_strategy == "no"


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.filterwarnings("ignore")
def test_a_launch_of_one_process_shards_after_a_case_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, cases = "llama-3 8B to 3B", ["grkd, DDP", "grkd, FSDP2"]
    words = [f"{pair}: {case}" for case in cases]
    monkeypatch.setattr("sys.argv", ["work", "--tiny", str(tmp_path), "1", *words])
    monkeypatch.setattr(AcceleratorState, "__init__", _ways._on_cpus_too)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)  # on_ranks does that
    on_ranks(_scaling_work.main, tmp_path / "ranks", ranks=1)
    names = [scaling.row_file(word, 1) for word in words]
    copied, sharded = (json.loads((tmp_path / name).read_text())["parameters_sharded"] for name in names)
    assert (copied[0], sharded[0]) == (0, sharded[1])
    assert copied[1] == sharded[1] > 0
