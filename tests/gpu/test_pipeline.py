"""The whole pipe on a GPU: bfloat16 teacher, autocast training, cached and live signals, the same student folder."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def results(folder: Path) -> dict[tuple[str, str], float]:
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return {(row["method"], row["metric"]): row["value"] for row in rows}


@pytest.mark.parametrize("signal", ["cache", "live"])
def test_language_run(tiny_recipe: Path, signal: str) -> None:
    from grkd import cli

    assert cli.main(["run", str(tiny_recipe), "device=cuda", f"score.signal={signal}"]) == 0
    folder = tiny_recipe.parent / "run"
    found = results(folder)
    for method in ("kd", "grkd"):
        assert found[method, "soft_cross_entropy_nats"] < found["before", "soft_cross_entropy_nats"]
        for metric in ("forward_kl_nats", "reverse_kl_nats"):
            assert found[method, metric] < found["before", metric]
        assert 0 < found[method, "kendall_tau"] < 1
    assert json.loads((folder / "environment.json").read_text())["gpu"] == torch.cuda.get_device_name()
    student = AutoModelForCausalLM.from_pretrained(folder / "train" / "grkd-seed0" / "student", dtype=torch.float32)
    assert all(bool(value.isfinite().all()) for value in student.state_dict().values())


def test_gpu_and_cpu_train_alike(tiny_recipe: Path, tmp_path: Path) -> None:
    """In float32 the two devices differ by rounding alone (the responses come from the data, not from sampling)."""
    from grkd import cli

    pairs = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"w{n} w{n + 1}", "completion": f"w{n + 2} w{n + 3}"} for n in range(20)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    shared = [f"data.train={pairs}", "responses.source=data", "methods=[kd]", "teacher.dtype=float32"]
    for where in ("cpu", "cuda"):
        words = [*shared, f"device={where}", "student.dtype=float32", f"output={tmp_path / where}"]
        assert cli.main(["run", str(tiny_recipe), *words]) == 0
    cpu, gpu = results(tmp_path / "cpu"), results(tmp_path / "cuda")
    for key, value in cpu.items():
        assert gpu[key] == pytest.approx(value, rel=2e-2), key
