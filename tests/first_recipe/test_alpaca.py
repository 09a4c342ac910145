"""Records of instruction, input and output: `grkd init` gives a command that turns them into a form that is read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from grkd import cli
from grkd.first_recipe import look


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_the_command_for_alpaca_records_works(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"instruction": "w1", "input": more, "output": "w3"} for more in ("", "w2")]
    tmp_path /= "a-folder-with-a-name-of-many-letters" * 4  # no part of the command is cut for it
    tmp_path.mkdir()
    path = tmp_path / "alpaca.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    if suffix == "json":
        pytest.importorskip("datasets", reason="needs pip install 'grkd[data]'")
        path = tmp_path / "alpaca.json"
        path.write_text(json.dumps(records))
    assert cli.main(["init", str(path), "--output", str(tmp_path / "mine.yaml")]) == 2
    said = capsys.readouterr().err
    assert len(said) < 400
    command = said[said.index("python -c") :]
    here = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, env=here, check=True)
    lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == ["w1", "w1\n\nw2"]
    assert look.look(str(tmp_path / "prompts.jsonl")).kind == "answers"
