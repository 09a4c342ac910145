"""Without a network: what is downloaded is used, and what is not is one line at once."""

import os
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from grkd import hub
from grkd.errors import UserError
from grkd.models.load import load_tokenizer


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """Connections that were tried, all in vain."""
    tried: list[tuple[str, int]] = []

    def fails(place: tuple[str, int], **_: object) -> socket.socket:
        tried.append(place)
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", fails)
    monkeypatch.setattr(urllib.request, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub._offline_if_out_of_reach.cache_clear()
    yield tried
    hub._offline_if_out_of_reach.cache_clear()


def test_a_hub_out_of_reach_is_asked_once_and_by_nobody_else(
    no_network: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match="nope/nope: its tokenizer could not be loaded from the hub") as caught:
            load_tokenizer("nope/nope")
        assert len(str(caught.value)) < 400
    assert no_network == [("hub.example", 443)]
    assert (constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"]) == (True, "1")
    said = capsys.readouterr().err
    assert said.count("hub.example cannot be reached: only models and data that were downloaded before are used") == 1


def test_nobody_is_asked_for_a_folder_offline_or_behind_a_proxy(
    no_network: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.look_for(str(tmp_path))
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy.example"})
    hub.look_for("nope/nope")
    assert no_network == []
    assert not constants.HF_HUB_OFFLINE


def test_a_path_that_is_not_there_is_no_hub_name(tmp_path: Path) -> None:
    hub.check_path(str(tmp_path), "student.model: ")
    hub.check_path("organisation/model")
    for path in ("./absent", "/absent", "~/absent", "a/b/c"):
        with pytest.raises(UserError, match=f"^student.model: {path}: no such folder"):
            hub.check_path(path, "student.model: ")
