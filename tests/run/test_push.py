"""A student on a hub that is a fake: what is uploaded, and one line for what the hub refuses."""

import importlib
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, Response

from grkd import cli
from grkd.run.push import finished_card

# Of the hub's library: httpx or its successor.
client: Any = importlib.import_module(Response.__module__.partition(".")[0])


class FakeApi:
    """Keeps what it is told; raises `error` when a repository is asked for."""

    calls: list[tuple[str, dict[str, Any]]]
    error: Exception | None = None

    def create_repo(self, name: str, **given: Any) -> str:
        if self.error is not None:
            raise self.error
        self.calls.append(("create", {"name": name, **given}))
        return f"https://hub/{name}"

    def upload_folder(self, **given: Any) -> None:
        self.calls.append(("folder", given))

    def upload_file(self, **given: Any) -> None:
        self.calls.append(("file", given))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    FakeApi.calls, FakeApi.error = [], None
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    return FakeApi


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A run of one method with its student's folder."""
    folder = tmp_path / "run" / "train" / "kd-seed0" / "student"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    facts = "| teacher | /home/me/secret/big |\n| see | https://a.org/b/c |\n"
    (folder / "README.md").write_text(f"---\nlibrary_name: transformers\n---\n# Mine\n\n{facts}")
    (folder / "grkd_recipe.json").write_text('{"teacher": {"model": "/home/me/secret/big"}}')
    rows = [{"method": "kd", "seed": 0, "metric": "kendall_tau", "value": 0.5}]
    (tmp_path / "run" / "results.json").write_text(json.dumps({"task": "language_model", "rows": rows}))
    (tmp_path / "run" / "recipe.yaml").write_text("task: language_model\nteacher: {model: /home/me/secret/big}\n")
    return folder


def test_a_folder_near_the_root_is_in_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "resolve", lambda path: path)
    assert finished_card(Path("/student")) == "# student\n"


def test_files_and_a_card_with_measures_and_recipe(hub: type[FakeApi], student: Path, capsys: Any) -> None:
    before = (student / "README.md").read_bytes()
    assert cli.main(["push", str(student), "me/small"]) == 0
    assert "uploaded: https://hub/me/small" in capsys.readouterr().out
    (_, made), (_, files), (_, given), (_, card) = hub.calls
    assert made == {"name": "me/small", "private": True, "exist_ok": True}
    assert (files["folder_path"], files["ignore_patterns"]) == (student, ["README.md", "grkd_recipe.json"])
    assert json.loads(given["path_or_fileobj"]) == {"teacher": {"model": "big"}}
    text = card["path_or_fileobj"].decode()
    assert text.startswith("---\nlibrary_name: transformers\n---\n# Mine")
    assert "| kd | 0.500 |" in text
    assert "teacher: {model: big}" in text
    assert "| teacher | big |\n| see | https://a.org/b/c |" in text
    assert "secret" not in text  # no folder of this machine
    assert (student / "README.md").read_bytes() == before
    assert cli.main(["push", str(student), "me/small", "--card"]) == 0
    assert text in capsys.readouterr().out
    assert len(hub.calls) == 4


def refused(status: int) -> HfHubHTTPError:
    request = client.Request("POST", "https://hub")
    return HfHubHTTPError("no", response=client.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LocalTokenNotFoundError("none"), "push: not logged in"),
        (refused(403), "check the token's rights"),
        (refused(500), "try again"),
        (client.ConnectError("no route"), "cannot be reached (no route)"),
    ],
)
def test_refusals_are_one_line(
    hub: type[FakeApi], student: Path, error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.error = error
    assert cli.main(["push", str(student), "me/small"]) == 2
    assert said in capsys.readouterr().err
    assert hub.calls == []


def test_mistakes_before_the_hub(hub: type[FakeApi], student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["push", str(student.parent), "me/small"]) == 2
    assert "no model in it" in capsys.readouterr().err
    assert cli.main(["push", str(student), "small"]) == 2
    assert "look like my-name/my-student" in capsys.readouterr().err
