"""What a training needs beside this process, a tracker's package and the hub: looked for before records are read."""

import importlib
import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalTokenNotFoundError, Response

from grkd.errors import UserError
from grkd.training import GRKDConfig, GRKDTrainer
from grkd.training.services import check_services

# Of the hub's library: httpx or its successor.
client: Any = importlib.import_module(Response.__module__.partition(".")[0])


class Unread(list[Any]):
    """Records that must not be read."""

    def __iter__(self) -> Any:
        raise AssertionError("records were read first")


def test_an_output_folder_that_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("a file")
    with pytest.raises(UserError, match=r"output_dir: cannot write to .*mine: .*mine is a file"):
        GRKDTrainer("no/model", args=settings(tmp_path), train_dataset=Unread())


def settings(folder: Path, **given: Any) -> GRKDConfig:
    return GRKDConfig(str(folder / "mine"), **{"use_cpu": True, "report_to": "none", "method": "sft", **given})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mlflow", 'report_to: mlflow is not installed; pip install it, or set report_to="none"'),
        ("nope", "report_to: unknown tracker 'nope'; known: none, azure_ml, "),
    ],
)
def test_a_tracker_that_is_missing(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        GRKDTrainer("org/absent", args=settings(tmp_path, report_to=name), train_dataset=Unread())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (client.ConnectError("no route"), "push_to_hub: the hub cannot be reached (no route); set it to False"),
        (LocalTokenNotFoundError("none"), "push_to_hub: not logged in"),
    ],
)
def test_a_hub_that_refuses(error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        def create_repo(self, name: str, **_: Any) -> None:
            raise error

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        GRKDTrainer("org/absent", args=settings(tmp_path, push_to_hub=True), train_dataset=Unread())
    assert "\n" not in str(caught.value)


def test_the_repository_is_the_one_that_the_training_writes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def create_repo(self, name: str, **given: Any) -> None:
            asked.append((name, given))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    check_services(settings(tmp_path))
    assert asked == []
    for given in ({}, {"hub_model_id": "me/small", "hub_token": "t", "hub_private_repo": True}):
        check_services(settings(tmp_path, push_to_hub=True, **given))
    assert asked == [
        ("mine", {"token": None, "private": None, "exist_ok": True}),
        ("me/small", {"token": "t", "private": True, "exist_ok": True}),
    ]
